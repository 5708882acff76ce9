"""Measures of one image as pure functions of arrays, and the metrics computed from their sums."""
