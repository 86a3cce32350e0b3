"""Tests of the shadow reads: measures, attribution, statistics, gate, observer and pages."""
