"""Contract suites: one set of tests for every implementation of a Protocol."""
