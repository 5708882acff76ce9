"""What happens around training and test: measures, pictures, curves, loggers, guards."""
