"""Reading and writing a folder that may have come from a stranger: never half a file, and never through a link."""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from segstudy.errors import ConfigError

PARTIAL = ".partial"
"""Suffix of files that are being written. What a killed process leaves of them is removed when its run goes on."""
HALF_WRITTEN = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(PARTIAL)}", re.DOTALL)


@contextmanager
def atomic_write(folder: Path, name: str | Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A new file, which at the end takes the place of `folder/name`; after an error that is as it was.

    name: relative, with sub-folders, which are made. No link below `folder` is followed (`folder` itself may be one):
    a link at `name` is replaced, a linked sub-folder is a ConfigError. durable: flushed to the disk before it counts.
    """
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as place:
        partial = f".{last[:40]}.{secrets.token_hex(8)}{PARTIAL}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with open(os.open(partial, flags, 0o666, dir_fd=place), "w+b") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.rename(partial, last, src_dir_fd=place, dst_dir_fd=place)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(partial, dir_fd=place)
            if isinstance(error, OSError) and error.errno and error.filename in (None, partial) and not error.filename2:
                error.filename = str(folder / name)  # a write knows of none
            raise
        if durable:
            os.fsync(place)


def write_text(folder: Path, name: str | Path, text: str) -> None:
    """Write a text as UTF-8, as `atomic_write` does."""
    with atomic_write(folder, name) as file:
        file.write(text.encode())


def move(file: Path, folder: Path, name: str | Path) -> None:
    """Let a file of the same disk take the place of `folder/name`, as `atomic_write` does."""
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as place:
        os.rename(file, last, dst_dir_fd=place)


def remove(folder: Path, name: str | Path) -> None:
    """Remove `folder/name` if it is there. Raises ConfigError for a link on the way."""
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as place, suppress(FileNotFoundError):
        os.unlink(last, dir_fd=place)


def subfolder(folder: Path, name: str) -> Path:
    """`folder/name`, made if it is not there. Raises ConfigError if it is a link."""
    with opened_folder(folder, _parts(name)):
        return folder / name


@contextmanager
def opened_folder(folder: Path, inner: list[str]) -> Iterator[int]:
    """The descriptor of a folder in `folder`; both are made. Raises ConfigError for a link below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for depth, name in enumerate(inner, 1):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=place)
            deeper = _no_link(folder.joinpath(*inner[:depth]), os.O_RDONLY | os.O_DIRECTORY, place)
            os.close(place)
            place = deeper
        yield place
    finally:
        os.close(place)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that nobody else writes into. No link is followed."""
    for _, _, names, place in os.fwalk(folder.resolve()):
        for name in names:
            if HALF_WRITTEN.fullmatch(name):
                os.unlink(name, dir_fd=place)


def open_lock(folder: Path, create: bool = True) -> TextIO:
    """A folder's `.lock`, neither truncated nor written. Raises ConfigError for a link, or what is no plain file."""
    path = folder / ".lock"
    handle = _no_link(path, (os.O_RDWR | os.O_CREAT) if create else os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ConfigError(f"{path} is no plain file: it cannot be locked\n  → remove it")
    return open(handle)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; others wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def open_to_read(path: Path) -> BinaryIO:
    """A plain file. Links are followed; of a pipe or a device, which could be waited on without end, raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return open(handle, "rb")


def read_text(path: Path) -> str:
    """The text of a plain file, as `open_to_read`."""
    with open_to_read(path) as file:
        return file.read().decode()


def _parts(name: str | Path) -> list[str]:
    """The parts of a relative path. Raises ConfigError if it leads out of its folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(f"{str(name)!r} is no name within a folder: nothing is written there")
    return list(path.parts)


def _no_link(path: Path, flags: int, place: int | None = None) -> int:
    """The descriptor of `path`, by its last part in the folder `place` if that is given."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is opened, not waited for
    try:
        return os.open(path if place is None else path.name, flags, 0o666, dir_fd=place)
    except OSError as error:
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link to {os.readlink(path)}: nothing is written through a link in this folder\n"
                "  → put a folder or file of its own there, or remove the link"
            ) from error
        error.filename = str(path)
        raise
