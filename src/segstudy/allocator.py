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
GLIBC = "glibc"
CHOICE = "SEGSTUDY_ALLOCATOR"
"""Environment variable: `default` changes nothing; a path is the library to preload."""

STARTED = "SEGSTUDY_ALLOCATOR_STARTED"
"""Set in the environment of a process that was started anew: it is not done twice."""

chosen = "the system's"
"""What this process uses, in words."""


def use_fast_memory(restart: bool = True) -> None:
    """Use the fastest allocator there is: the process restarts itself with it, once, by exec, if it may.

    Does nothing on other systems than Linux, and with SEGSTUDY_ALLOCATOR=default. A library named by the user that
    cannot be loaded ends the process with one line.
    """
    global chosen
    wanted = os.environ.get(CHOICE, "")
    if sys.platform != "linux" or wanted == "default":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch asks for large pages: a tenth of a step at 256²
    preloaded = [name for name in os.environ.get("LD_PRELOAD", "").split(":") if name]
    started = os.environ.get(STARTED)
    library = wanted or installed_library()
    if loaded := [name for name in preloaded if name == started or "malloc" in name]:
        chosen = Path(loaded[0]).name
    elif restart and started is None and library and _can_load(library, named=bool(wanted)) and _can_restart():
        os.environ |= {"LD_PRELOAD": ":".join([library, *preloaded]), STARTED: library}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    elif raise_thresholds():
        chosen = GLIBC


def _can_load(library: str, named: bool) -> bool:
    """Whether a library can be preloaded. Ends the process if the user named it and it cannot."""
    try:
        if ":" in library or " " in library:  # the loader separates libraries by them
            raise OSError("its path holds a colon or a space")
        ctypes.CDLL(library)
    except OSError as error:
        if named:
            sys.exit(f"{CHOICE}={library} cannot be loaded: {error}\n  → a library's path, or default")
        return False
    return True


def _can_restart() -> bool:
    """Whether the process was started by a command that can be repeated: not from standard input or interactively."""
    program = next((a for a in sys.orig_argv[1:] if a in ("-c", "-m") or not a.startswith("-")), "-")
    return program != "-" and not sys.flags.interactive and not hasattr(sys, "ps1")


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
