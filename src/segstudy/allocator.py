"""Faster memory allocation for training on a CPU: tcmalloc if it is installed, else glibc with higher thresholds.

A training step allocates and frees some GiB of feature maps. glibc returns them to the kernel at every step, and the
kernel zeroes them again: a third of all CPU time (results/speed.md). This file imports the standard library alone,
because the allocator must be set before PyTorch is imported.
"""

import ctypes
import os
import sys
from pathlib import Path

FOLDERS = (
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib", "/usr/local/lib64", "/usr/lib64",
    "/usr/lib", "/opt/conda/lib", "~/.local/lib",
)  # fmt: skip
"""Folders to search after this Python's environment, as in PyTorch's `torch.backends.xeon.run_cpu`."""
LIBRARIES = ("libtcmalloc_minimal.so*", "libtcmalloc.so*")
GLIBC = "glibc's, thresholds raised"
CHOICE = "SEGSTUDY_ALLOCATOR"
"""Environment variable: `default` changes nothing; a path is the library to preload."""

chosen = "the system's"
"""The allocator of this process, in words."""


def use_fast_memory() -> None:
    """Use the fastest allocator available. For tcmalloc, the process restarts itself once (exec).

    Does nothing on other systems than Linux, if an allocator is preloaded already, or with SEGSTUDY_ALLOCATOR=default.
    """
    global chosen
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages save a tenth of a step at 256²
    wanted, preloaded = os.environ.get(CHOICE, ""), os.environ.get("LD_PRELOAD", "")
    if sys.platform != "linux" or wanted == "default":
        return
    library = wanted or installed_library()
    loaded = [name for name in preloaded.split(":") if "malloc" in name or (library and name == library)]
    if loaded:
        chosen = Path(loaded[0]).name
    elif library and sys.orig_argv:
        os.environ["LD_PRELOAD"] = f"{library}:{preloaded}".rstrip(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    elif raise_thresholds():
        chosen = GLIBC


def installed_library() -> str | None:
    """The path of an installed tcmalloc, or None."""
    places = [Path(sys.prefix) / "lib", *(Path(folder).expanduser() for folder in FOLDERS)]
    for pattern in LIBRARIES:
        for place in places:
            if found := sorted(place.glob(pattern)):
                return str(found[-1])
    return None


def raise_thresholds() -> bool:
    """Let glibc keep freed memory, up to a quarter of the machine's. Returns False without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    trim = min(memory // 4, 2**31 - 1)  # it must fit a C int
    settings = ((-4, 0), (-1, trim), (-2, 2**28))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
    return all(mallopt(name, value) == 1 for name, value in settings)
