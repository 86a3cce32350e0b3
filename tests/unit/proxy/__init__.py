"""Unit tests of the proxy's write path, read path, routing and control."""
