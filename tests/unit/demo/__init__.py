"""Unit tests of the demo's own parts."""
