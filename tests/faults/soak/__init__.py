"""Everything at once, for as long as is asked: a mixed load, every fault at random, checks."""
