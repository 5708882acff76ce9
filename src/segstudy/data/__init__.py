"""Data sets: each is a LightningDataModule with its own classes, palette and label mapping."""
