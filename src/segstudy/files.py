"""Files of a folder from an unknown source: written completely or not at all, and never through a link.

What is read back is checked: it has a checksum, or its types and lengths are looked at. One error, DamagedFile, says
what is wrong with a file.
"""

import csv
import errno
import fcntl
import io
import json
import os
import re
import secrets
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from zipfile import ZipFile

import numpy as np
import yaml
from numpy.lib import format as npy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from segstudy.errors import ConfigError, DamagedFile, SegstudyError, first_line

LARGEST = 2**32
"""Bytes of a text or of unpacked arrays above which a file is refused."""

LARGEST_YAML, DEEPEST_YAML = 2**20, 50
"""Bytes and levels above which YAML is refused: reading it would take minutes, or end the process."""

PARTIAL = ".partial"
"""Suffix of files that are being written. Those left by a killed process are removed when its run continues."""
FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a text begins that a spreadsheet takes for a formula. The ' is for reading back what began with one."""
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?|[+-]?(nan|inf)")
HALF_WRITTEN = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(PARTIAL)}", re.DOTALL)


@contextmanager
def atomic_write(folder: Path, name: str | Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Write a new file that replaces `folder/name` at the end; after an error, the old one is unchanged.

    name: a relative path; missing sub-folders are created. Links below `folder` are not followed (`folder` itself may
    be one): a link at `name` is replaced, a linked sub-folder raises ConfigError. durable: flush the file to the disk
    before it replaces the old one.
    """
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as parent:
        partial = f".{last[:40]}.{secrets.token_hex(8)}{PARTIAL}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with open(os.open(partial, flags, 0o666, dir_fd=parent), "w+b") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.rename(partial, last, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(partial, dir_fd=parent)
            if isinstance(error, OSError) and error.errno and error.filename in (None, partial) and not error.filename2:
                error.filename = str(folder / name)  # errors of `write` have no file name
            raise
        if durable:
            os.fsync(parent)


def check_output(path: Path, option: str, folder: bool = False, suffixes: Sequence[str] = ()) -> None:
    """Raise ConfigError, with the option's name, unless a file can be written at `path`, or files into it as a folder.

    Checked before any work, so a disk that fills up meanwhile is not noticed. Nothing is created. suffixes: the allowed
    ones; () for any.
    """
    said = f"{option} {path} cannot be written"
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{said}: its name must end in {' or '.join(suffixes)}")
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # raises for a name that is too long
        whole = path.absolute()
        home = next(each for each in ((whole, *whole.parents) if folder else whole.parents) if os.path.lexists(each))
        if not folder and whole.is_dir():
            raise ConfigError(f"{said}: it is a folder\n  → name a file in it")
        if not home.is_dir():
            raise ConfigError(f"{said}: {home} is not a folder")
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(bytes(4096))
    except OSError as error:
        raise ConfigError(f"{said}: {error.strerror or error}") from error


def write_text(folder: Path, name: str | Path, text: str) -> None:
    """Write a text in UTF-8 with `atomic_write`."""
    with atomic_write(folder, name) as file:
        file.write(text.encode())


def write_csv(folder: Path, name: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows {column: value} with `atomic_write`; missing values and None are empty. Texts: see `csv_cell`."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows({column: csv_cell(value) for column, value in row.items()} for row in rows)
    write_text(folder, name, text.getvalue())


def csv_cell(value: Any) -> Any:
    """A value for a CSV file: a spreadsheet would execute a text that begins as a formula, so it gets a '."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value) else value


def _without_quote(value: Any) -> Any:
    quoted = isinstance(value, str) and value[:1] == "'" and FORMULA.match(value[1:])
    return value[1:] if quoted else value


def move(file: Path, folder: Path, name: str | Path) -> None:
    """Replace `folder/name` by a file of the same disk. Links are treated as in `atomic_write`."""
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as parent:
        os.rename(file, last, dst_dir_fd=parent)


def keep(folder: Path, name: Path, other: Path) -> None:
    """Give `folder/name` the second name `other`, which stays when `name` is replaced; nothing if the disk cannot."""
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as parent, suppress(OSError):
        with suppress(FileNotFoundError):
            os.unlink(other.name, dir_fd=parent)
        os.link(last, other.name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)


def remove(folder: Path, name: str | Path) -> None:
    """Remove `folder/name` if it exists. Raises ConfigError if one of its folders is a link."""
    *inner, last = _parts(name)
    with opened_folder(folder, inner) as parent, suppress(FileNotFoundError):
        os.unlink(last, dir_fd=parent)


def subfolder(folder: Path, name: str) -> Path:
    """The folder `folder/name`, created if missing. Raises ConfigError if it is a link."""
    with opened_folder(folder, _parts(name)):
        return folder / name


@contextmanager
def opened_folder(folder: Path, inner: list[str]) -> Iterator[int]:
    """Descriptor of the folder `inner` of `folder`; missing ones are created. Raises ConfigError for a link in it."""
    folder.mkdir(parents=True, exist_ok=True)
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for depth, name in enumerate(inner, 1):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
            deeper = _no_link(folder.joinpath(*inner[:depth]), os.O_RDONLY | os.O_DIRECTORY, parent)
            os.close(parent)
            parent = deeper
        yield parent
    finally:
        os.close(parent)


def remove_partials(folder: Path) -> None:
    """Remove half-written files of killed processes, in a folder to which nobody else writes. Follows no link."""
    for _, _, names, parent in os.fwalk(folder.resolve()):
        for name in names:
            if HALF_WRITTEN.fullmatch(name):
                os.unlink(name, dir_fd=parent)


def open_lock(folder: Path, create: bool = True) -> TextIO:
    """Open a folder's `.lock` without changing it. Raises ConfigError unless it is a regular file, not a link."""
    path = folder / ".lock"
    handle = _no_link(path, (os.O_RDWR | os.O_CREAT) if create else os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ConfigError(f"{path} is not a regular file, so it cannot be locked\n  → remove it")
    return open(handle)


def open_log(folder: Path) -> int:
    """Descriptor that appends to a folder's `log.txt`. Raises ConfigError for a link."""
    return _no_link(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@contextmanager
def folder_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock a folder for this process; others wait. Raises OSError if the disk has no locks, or instead of waiting."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def open_to_read(path: Path) -> BinaryIO:
    """Open a regular file; links are followed. Raises OSError for a pipe or a device, which might block forever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(handle, "rb")


@contextmanager
def reading(file: Path, way_out: str = "") -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into DamagedFile. A missing file is a FileNotFoundError.

    way_out: what is lost, and what to do; the message ends with it.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:  # zipfile, NumPy, torch, YAML and pydantic have their own types, and raise many others
        reason = error.strerror or str(error) if isinstance(error, OSError) else first_line(error)
        if isinstance(error, DamagedFile) or not isinstance(error, SegstudyError):
            known = isinstance(error, DamagedFile) and str(error).startswith(str(file))
            text = str(error) if known else f"{file} is damaged: {reason}"
            raise DamagedFile(text + way_out) from error
        raise


def read_text(path: Path) -> str:
    """The text (UTF-8) of a regular file, opened by `open_to_read`. Raises DamagedFile for any other file."""
    with reading(path), open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST / 2**30:g} GiB")
        return file.read().decode()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows {column: value} of a regular file, without the ' of `csv_cell`. Raises DamagedFile, also for a row of
    another length."""
    with reading(path):
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        rows = list(reader)
        if not reader.fieldnames:
            raise ValueError("it is empty")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a line has more or fewer values than the first")
        return [{column: _without_quote(value) for column, value in row.items()} for row in rows]


def write_json(folder: Path, name: str, values: Mapping[str, Any], durable: bool = False) -> None:
    """Write named values with `atomic_write`, with their checksum; NaN is null."""
    plain = json.loads(to_json(values, inf_nan_mode="null", fallback=str))
    with atomic_write(folder, name, durable) as file:
        file.write(json.dumps(plain | {"checksum": _checksum(plain)}, indent=1).encode())


def read_json(file: Path) -> dict[str, Any]:
    """The named values of a JSON file, without their checksum: files of older versions, or by hand, need none.

    Raises DamagedFile.
    """
    with reading(file):
        values = json.loads(read_text(file))
        if not isinstance(values, dict):
            raise ValueError("it has no named entries")
        stated = values.pop("checksum", None)
        if stated not in (None, _checksum(values)):
            raise ValueError("its checksum is wrong. If you changed it yourself, remove the line with the checksum")
        return values


def validate(types: Any, values: Any) -> Any:
    """Values as pydantic types. Raises ValueError, in one line, for the first that is wrong."""
    try:
        return TypeAdapter(types).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place, given = ".".join(map(str, first["loc"])), first["input"]
        found = "" if isinstance(given, dict) else f", found {given!r}"
        raise ValueError(f"{place}{': ' * bool(place)}{first['msg']}{found}"[:200]) from error


def _checksum(values: Any) -> str:
    return checksum_of(json.dumps(values).encode())


def checksum_of(content: bytes) -> str:
    """The CRC-32 of bytes: it finds damage as surely as a longer one, at 1 GB/s and more."""
    return f"{zlib.crc32(content):08x}"


def checksum(file: Path) -> str:
    """`checksum_of` a file."""
    crc = 0
    with reading(file), open_to_read(file) as opened:
        while block := opened.read(2**20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def read_yaml(file: Path) -> str:
    """The text of a YAML file that can be parsed safely (`check_yaml`). Raises DamagedFile."""
    with reading(file):
        return check_yaml(read_text(file))


def check_yaml(text: str) -> str:
    """The text itself. Raises ValueError or YAMLError if parsing it could fail, take minutes, or fill the memory."""
    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has more than {LARGEST_YAML / 2**20:g} MiB")
    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has YAML aliases, which can expand without limit")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise ValueError(f"it has more than {DEEPEST_YAML} levels")
    return text


def check_zip(archive: ZipFile) -> None:
    """Raise ValueError if the content of a zip file differs from its checksums (CRC-32), or is too large unpacked."""
    if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
        raise ValueError(f"it holds more than {LARGEST / 2**30:g} GiB")
    if wrong := archive.testzip():
        raise ValueError(f"the checksum of {wrong} is wrong")


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, whose checksums are verified; never unpickled. Raises DamagedFile."""
    with reading(file), open_to_read(file) as opened, ZipFile(opened) as archive:
        check_zip(archive)
        return {entry.removesuffix(".npy"): read_array(archive, entry) for entry in archive.namelist()}


def read_array(archive: ZipFile, entry: str) -> np.ndarray:
    """An array of an .npz file. Raises ValueError for a header that does not fit its content."""
    content = io.BytesIO(archive.read(entry))
    return npy.read_array(content, allow_pickle=False)


def _parts(name: str | Path) -> list[str]:
    """The parts of a relative path. Raises ConfigError if it leads out of its folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(f"{str(name)!r} is not a path inside the folder: nothing is written there")
    return list(path.parts)


def _no_link(path: Path, flags: int, parent: int | None = None) -> int:
    """Descriptor of `path`; with `parent`, the descriptor of its folder. Raises ConfigError for a link."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # do not wait on a pipe
    try:
        return os.open(path if parent is None else path.name, flags, 0o666, dir_fd=parent)
    except OSError as error:
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link to {os.readlink(path)}: nothing is written through a link in this folder\n"
                "  → remove the link, or put a real file or folder in its place"
            ) from error
        error.filename = str(path)
        raise
