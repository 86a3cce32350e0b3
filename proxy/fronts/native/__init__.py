"""The native front: Crossfade's own gRPC API over the data plane and the control plane."""
