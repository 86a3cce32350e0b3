"""The ledger: the durable order of intents, and everything that must survive a crash."""
