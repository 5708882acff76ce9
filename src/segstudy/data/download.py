"""Downloading a published archive: resumed where it broke off, checked, unpacked inside its folder."""

import hashlib
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from segstudy.errors import DataError


def fetch_archive(url: str, md5: str, folder: Path) -> None:
    """Download the tar archive at `url` into `folder`, check its MD5 and unpack it there; the archive is then removed.

    A broken download is continued by the next call. Raises DataError if the place cannot be reached or the sum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (Path(url).name + ".partial")
    try:
        _download(url, partial)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"{url} could not be downloaded: {error}\n  the same command continues it; or unpack the archive in {folder}"
        ) from error
    found = _md5(partial)
    if found != md5:
        partial.unlink()
        raise DataError(f"{url} arrived damaged: MD5 {found}, expected {md5}. It was removed; try again.")
    with tarfile.open(partial) as archive:
        archive.extractall(folder, filter="data")  # refuses links and paths that lead outside
    partial.unlink()


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


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
