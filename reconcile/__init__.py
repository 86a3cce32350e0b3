"""The reconciler: backfill, verify and repair by the copy rule."""
