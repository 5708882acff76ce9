"""The config of a run: compose it, check it before any data is opened, and read it from a run's folder."""
