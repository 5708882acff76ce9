"""The run folder: its record, history, checkpoints and lock, and the list of all runs."""
