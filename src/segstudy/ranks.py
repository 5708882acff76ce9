"""The number of this process within one training. Imports only the standard library."""

import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables with a process's number within one training; Lightning reads the same ones."""
RANK = next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
"""Number of this process within one training; 0 for the first or only one."""
