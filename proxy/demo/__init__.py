"""`crossfade demo`: a whole migration on real stores under live traffic, checked row by row."""
