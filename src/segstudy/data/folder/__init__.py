"""The user's own images and masks: a folder, described by dataset.yaml."""
