"""The config of a run: composing it, checking it before anything is opened, and reading it from a run's folder."""
