"""Tests across parts: real databases, real processes."""
