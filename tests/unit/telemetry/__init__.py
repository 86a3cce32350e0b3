"""Tests of logs, traces, metrics and the wrappers that feed them."""
