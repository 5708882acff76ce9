"""The published data sets, and generated scenes."""
