"""The write path: resolve, append the intent, write both stores, settle, answer."""
