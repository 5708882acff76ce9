"""Which of several processes of one training this is. Only the standard library is imported here."""

import os

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that number the processes of one training; Lightning reads the same ones."""
RANK = next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
"""Which of several training processes this is (of Lightning, torchrun or SLURM); 0 for the first or only one."""
