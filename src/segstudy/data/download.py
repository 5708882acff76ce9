"""Download of published archives: resumable, verified by checksum, and unpacked safely.

Not pooch or torchvision: neither resumes a broken download, and neither refuses unsafe archives on Python 3.11.
"""

import hashlib
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from segstudy.errors import DataError
from segstudy.files import folder_lock

HASH_OF_LENGTH = {32: "md5", 40: "sha1", 64: "sha256"}
"""{number of hexadecimal digits of a checksum: its hash function}."""


def fetch_archive(url: str, checksum: str, folder: Path, is_complete: Callable[[], bool] = lambda: False) -> None:
    """Download a tar or zip archive, verify it, unpack it in `folder`, and remove the archive.

    checksum: MD5, SHA-1 or SHA-256. is_complete: whether the folder already has the data. Of several processes one
    downloads and the others wait. The next call resumes a broken download. Raises DataError if the server cannot be
    reached, the checksum differs, or the archive has files outside the folder.
    """
    if is_complete():
        return
    if not hasattr(tarfile, "data_filter"):  # new in Python 3.11.4
        raise DataError(
            f"Python {sys.version.split()[0]} cannot unpack archives safely\n"
            f"  → use Python 3.11.4 or newer, or download {url} yourself and unpack it in {folder}"
        )
    partial = folder / (Path(url).name + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):
            if not is_complete():
                _download(url, partial)
                _check(url, partial, checksum)
                _unpack(partial, folder)
                partial.unlink()
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} could not be downloaded to {folder}: {error}\n"
            f"  → run the command again to resume, or download it yourself and unpack it in {folder}"
        ) from error


def _check(url: str, partial: Path, checksum: str) -> None:
    kind = HASH_OF_LENGTH[len(checksum)]
    with open(partial, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != checksum:
        partial.unlink()
        raise DataError(
            f"the download of {url} is damaged: {kind.upper()} {found}, expected {checksum}\n"
            "  → it was removed; try again"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder and move the result into `folder`: all or nothing."""
    work = folder / (archive.name + ".unpacked")
    shutil.rmtree(work, ignore_errors=True)  # of a killed process
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, work)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(work, filter=_safe_member)
        _merge(work, folder)
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        archive.unlink()
        raise DataError(
            f"the archive {archive.name.removesuffix('.partial')} cannot be unpacked safely: {error}\n"
            f"  → it was removed and nothing was unpacked; download it from a trusted source and unpack it in {folder}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{archive} could not be unpacked: {error}\n  → free some space in {folder} and run the command again"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unzip(archive: Path, work: Path) -> None:
    """Unpack a zip file. Raises BadZipFile for a path outside `work`, which zipfile itself would change and unpack."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith(("/", "\\")) or ".." in Path(name.replace("\\", "/")).parts:
                raise zipfile.BadZipFile(f"{name!r} would be unpacked outside the folder")
        file.extractall(work)


def _safe_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """tarfile's "data" filter, which refuses paths outside the folder; absolute paths, which it renames, also raise."""
    if member.name.startswith(("/", "\\")):
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, path)


def _merge(source: Path, target: Path) -> None:
    """Move all content of `source` to `target` by renaming; folders that both have are merged."""
    for child in source.iterdir():
        new_path = target / child.name
        if child.is_dir() and new_path.is_dir():
            _merge(child, new_path)
        else:
            child.replace(new_path)


def _download(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is left to download
            return
        raise
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with response, Progress(*columns) as progress:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
        task = progress.add_task(partial.stem, total=total or None, completed=have if resumed else 0)
        with open(partial, "ab" if resumed else "wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
                progress.advance(task, len(block))
    if total and partial.stat().st_size < total:  # a lost connection ends the loop as the end of the file does
        raise OSError(f"the connection was lost after {partial.stat().st_size:,} of {total:,} bytes")
