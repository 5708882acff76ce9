"""Measures of one image as pure functions of arrays, and how their sums become a figure."""
