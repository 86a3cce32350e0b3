"""The pages of the report: plain HTML and SVG, built from values that are escaped by default."""
