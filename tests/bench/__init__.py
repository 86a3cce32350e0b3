"""The benchmark: each figure of Crossfade beside its direct equivalent, measured in one run."""
