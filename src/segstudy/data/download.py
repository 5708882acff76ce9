"""Downloading a published archive: resumed where it broke off, checked, unpacked inside its folder."""

import hashlib
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from segstudy.errors import DataError


def fetch_archive(url: str, md5: str, folder: Path) -> None:
    """Download the tar archive at `url` into `folder`, check its MD5 and unpack it there; the archive is then removed.

    A broken download is continued by the next call. Raises DataError if the place cannot be reached or the sum differs.
    """
    if not hasattr(tarfile, "data_filter"):  # came with Python 3.11.4
        raise DataError(
            f"Python {sys.version.split()[0]} cannot unpack archives safely\n"
            f"  → Python 3.11.4 or newer, or fetch {url} yourself and unpack it in {folder}"
        )
    partial = folder / (Path(url).name + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(url, partial)
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} could not be downloaded to {folder}: {error}\n"
            f"  → the same command continues it; or fetch it by other means and unpack it in {folder}"
        ) from error
    found = _md5(partial)
    if found != md5:
        partial.unlink()
        raise DataError(f"{url} arrived damaged: MD5 {found}, expected {md5}\n  → it was removed, try again")
    _unpack(partial, folder)
    partial.unlink()


def _unpack(archive: Path, folder: Path) -> None:
    """All or nothing: unpacked beside, and moved into `folder` when complete."""
    work = folder / (archive.name + ".unpacked")
    shutil.rmtree(work, ignore_errors=True)  # what a killed attempt left
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter=_inside)
        _merge(work, folder)
    except tarfile.TarError as error:
        archive.unlink()
        raise DataError(
            f"the archive {archive.name.removesuffix('.partial')} cannot be unpacked safely: {error}\n"
            f"  → it was removed and nothing was unpacked; fetch it from a source you trust and unpack it in {folder}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{archive} could not be unpacked: {error}\n  → make room in {folder}; the same command then unpacks it"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """tarfile's "data" filter refuses what leads outside, except absolute names, which it would rename."""
    if member.name.startswith(("/", "\\")):
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, path)


def _merge(source: Path, target: Path) -> None:
    """Move everything in `source` into `target`, by renaming; folders that both have are joined."""
    for child in source.iterdir():
        place = target / child.name
        if child.is_dir() and place.is_dir():
            _merge(child, place)
        else:
            child.replace(place)


def _download(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing left: it was complete
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
    if total and partial.stat().st_size < total:  # a closed connection ends the loop like a complete file
        raise OSError(f"the connection broke off after {partial.stat().st_size:,} of {total:,} bytes")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
