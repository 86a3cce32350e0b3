"""Embeddings: vectors made from texts, once, for both stores."""
