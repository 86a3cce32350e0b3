"""The storage proxy: model, stores, ledger, routing, the write and read paths, fronts, CLI."""
