"""What is said about a folder of runs."""
