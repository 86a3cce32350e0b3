"""The tests: unit, contract, integration, faults, bench."""
