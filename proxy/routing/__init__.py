"""Routing: which store is primary, where reads go, leases, epochs and phase steps."""
