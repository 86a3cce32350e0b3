"""Deterministic simulation: the real product code on virtual time, with checkers that can fail."""
