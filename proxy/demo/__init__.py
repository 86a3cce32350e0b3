"""`crossfade demo`: a whole migration on real PostgreSQL under live traffic, checked row by row."""
