"""The lock of a run folder: one process trains in it at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segstudy.errors import ConfigError
from segstudy.files import open_lock
from segstudy.ranks import RANK


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process (the first of several). Raises ConfigError if another process holds it."""
    if RANK > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_lock(folder)
    except OSError as error:
        raise ConfigError(f"the run folder {folder} cannot be written: {error}; set runs_dir=FOLDER") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another process is training in {folder}") from error
        except OSError as error:
            raise ConfigError(f"{folder / '.lock'} cannot be locked: {error}; set runs_dir=FOLDER") from error
        if os.fstat(file.fileno()).st_nlink == 0:
            raise ConfigError(f"{folder} was just removed by another process; repeat the command")
        yield
