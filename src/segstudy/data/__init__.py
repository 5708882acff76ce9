"""Data sets: each is a LightningDataModule that owns its classes, palette and label mapping."""
