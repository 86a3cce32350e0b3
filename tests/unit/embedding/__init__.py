"""Unit tests of the embedder: no model, no process."""
