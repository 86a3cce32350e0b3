"""Fronts: wire protocols in, the data plane and control plane out."""
