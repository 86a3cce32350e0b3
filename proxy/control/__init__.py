"""The control plane: preconditions, phase steps, the swap of the primary, status."""
