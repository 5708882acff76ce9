"""A user's own images and masks, described by a dataset.yaml."""
