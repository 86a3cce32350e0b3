"""The control plane as it is on the wire."""
