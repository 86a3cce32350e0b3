"""Version 1 of the control plane: control.proto and the code generated from it."""
