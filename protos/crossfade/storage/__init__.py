"""The data plane as it is on the wire."""
