"""Version 1 of the data plane: storage.proto and the code generated from it."""
