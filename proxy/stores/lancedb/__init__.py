"""The store adapter for LanceDB: an embedded, columnar store without transactions."""

from proxy.stores.lancedb.store import LanceStore

__all__ = ["LanceStore"]
