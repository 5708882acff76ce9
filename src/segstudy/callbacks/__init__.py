"""Callbacks of training and test: measures, pictures, curves, loggers, checks."""
