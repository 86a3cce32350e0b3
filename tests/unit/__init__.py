"""Tests of single parts: no network, no database."""
