"""A formal model of the ledger, live writes, copies and swaps, explored state by state."""
