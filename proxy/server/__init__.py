"""The proxy process: everything wired together, started, kept in order, and stopped."""
