"""Stores: one adapter per engine behind one small Protocol."""
