"""Shadow reads: compare two stores' answers, attribute every difference, report, gate."""
