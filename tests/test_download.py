"""Downloading from a server on this machine: resumed, checked, and unpacked inside its folder or not at all."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import make_voc

from segstudy.data.datasets import voc
from segstudy.data.download import fetch_archive
from segstudy.errors import DataError

pytestmark = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python before 3.11.4 cannot unpack archives safely, and is told so"
)


class Server(ThreadingHTTPServer):
    """Serves `content` under every path; `refuse` is a status to answer instead; `cut` ends each answer early."""

    content = b""
    refuse = 0
    cut: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/archive.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if self.server.refuse:
            self.send_error(self.server.refuse)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as it:
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield it
        it.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "photos"


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, data: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


GOOD = tar(file("set/a.txt", b"first"), file("set/deep/b.txt", b"second" * 1000))


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


UNPACKED = {"set/a.txt": b"first", "set/deep/b.txt": b"second" * 1000}


def test_an_archive_is_downloaded_checked_and_unpacked(server: Server, folder: Path) -> None:
    server.content = GOOD
    fetch_archive(server.url, md5(GOOD), folder)
    assert files(folder) == UNPACKED
    assert [p.name for p in folder.iterdir()] == ["set"]
    assert server.asked == [None]


def test_what_lies_in_the_folder_stays(server: Server, folder: Path) -> None:
    (folder / "set" / "deep").mkdir(parents=True)
    (folder / "set" / "deep" / "mine.txt").write_bytes(b"mine")
    server.content = GOOD
    fetch_archive(server.url, md5(GOOD), folder)
    assert files(folder) == UNPACKED | {"set/deep/mine.txt": b"mine"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_is_resumed(server: Server, folder: Path, ranges: bool) -> None:
    """Where the server knows no ranges, it begins anew and still ends well."""
    server.content, server.ranges, server.cut = GOOD, ranges, 3000
    with pytest.raises(DataError) as caught:
        fetch_archive(server.url, md5(GOOD), folder)
    assert f"was lost after 3,000 of {len(GOOD):,} bytes" in str(caught.value)
    assert "to resume" in str(caught.value)
    assert files(folder) == {"archive.tar.partial": GOOD[:3000]}
    server.cut = None
    fetch_archive(server.url, md5(GOOD), folder)
    assert files(folder) == UNPACKED
    assert server.asked == [None, "bytes=3000-"]


def test_a_complete_partial_file_is_not_fetched_again(server: Server, folder: Path) -> None:
    """As after a kill between download and unpacking; what that attempt had unpacked is thrown away."""
    (folder / "archive.tar.partial.unpacked" / "set").mkdir(parents=True)
    (folder / "archive.tar.partial.unpacked" / "set" / "half.txt").write_text("half")
    (folder / "archive.tar.partial").write_bytes(GOOD)
    server.content = GOOD
    fetch_archive(server.url, md5(GOOD), folder)
    assert files(folder) == UNPACKED
    assert server.asked == [f"bytes={len(GOOD)}-"]


def test_wrong_checksum_is_removed(server: Server, folder: Path) -> None:
    server.content = GOOD[:-1] + b"!"
    with pytest.raises(DataError) as caught:
        fetch_archive(server.url, md5(GOOD), folder)
    message = str(caught.value)
    assert f"MD5 {md5(server.content)}, expected {md5(GOOD)}" in message
    assert "removed; try again" in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refusal_says_what_to_do(server: Server, folder: Path, status: int) -> None:
    server.refuse = status
    with pytest.raises(DataError) as caught:
        fetch_archive(server.url, md5(GOOD), folder)
    message = str(caught.value)
    assert f"{server.url} could not be downloaded to {folder}" in message
    assert str(status) in message
    assert f"unpack it in {folder}" in message


def test_nobody_answers(folder: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch_archive(url, md5(GOOD), folder)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"could not be downloaded to .*file.photos"):
        fetch_archive(server.url, md5(GOOD), tmp_path / "file" / "photos")


@pytest.mark.parametrize(
    "member",
    [
        file("../outside.txt"),
        file("set/../../outside.txt"),
        file("ABSOLUTE/outside.txt"),
        link("set/link", "../../outside.txt"),
        link("set/link", "ABSOLUTE/outside.txt"),
        link("set/hard", "../outside.txt", tarfile.LNKTYPE),
        link("set/device", "", tarfile.CHRTYPE),
    ],
    ids=["parent", "parent within", "absolute", "symlink", "absolute symlink", "hard link", "device"],
)
def test_an_archive_that_leads_outside_is_refused_whole(
    server: Server, folder: Path, tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]
) -> None:
    info, data = member
    info = info.replace(
        name=info.name.replace("ABSOLUTE", str(tmp_path)), linkname=info.linkname.replace("ABSOLUTE", str(tmp_path))
    )
    server.content = tar(file("set/good.txt"), (info, data))
    with pytest.raises(DataError) as caught:
        fetch_archive(server.url, md5(server.content), folder)
    assert "archive.tar cannot be unpacked safely" in str(caught.value)
    assert "nothing was unpacked" in str(caught.value)
    assert list(folder.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_writing_through_a_link_of_the_archive_is_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    server.content = tar(link("set/way", "../.."), file("set/way/outside.txt"))
    with pytest.raises(DataError, match="cannot be unpacked safely"):
        fetch_archive(server.url, md5(server.content), folder)
    assert not list(tmp_path.rglob("outside.txt"))


def test_what_is_no_archive_is_refused(server: Server, folder: Path) -> None:
    server.content = b"<html>please log in</html>" * 50
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch_archive(server.url, md5(server.content), folder)
    assert list(folder.iterdir()) == []


# Zip archives, and other checksums


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_a_zip_archive_under_each_kind_of_checksum(server: Server, folder: Path, kind: str) -> None:
    server.content = zipped(**UNPACKED)
    fetch_archive(server.url, hashlib.new(kind, server.content).hexdigest(), folder)
    assert files(folder) == UNPACKED
    with pytest.raises(DataError, match=rf"{kind.upper()} .*, expected"):
        fetch_archive(server.url, hashlib.new(kind, b"other").hexdigest(), folder)


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "set/../../outside.txt", "..\\outside.txt"])
def test_a_zip_archive_that_leads_outside_is_refused_whole(
    server: Server, folder: Path, tmp_path: Path, name: str
) -> None:
    server.content = zipped(**{"set/good.txt": b"good", name: b"bad"})
    with pytest.raises(DataError, match=r"cannot be unpacked safely: .* outside the folder"):
        fetch_archive(server.url, md5(server.content), folder)
    assert list(folder.iterdir()) == []
    assert not list(tmp_path.rglob("outside.txt"))


def test_of_two_processes_one_fetches(server: Server, folder: Path) -> None:
    server.content = zipped(**UNPACKED)

    def fetch() -> None:
        fetch_archive(server.url, md5(server.content), folder, lambda: (folder / "set" / "a.txt").is_file())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(), range(4)))
    assert server.asked == [None]
    assert files(folder) == UNPACKED


# VOC


@pytest.fixture
def published(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A small VOC in the place of the official archive."""
    make_voc(tmp_path / "source", train=3, val=2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(tmp_path / "source" / "VOCdevkit", "VOCdevkit")
    server.content = buffer.getvalue()
    monkeypatch.setattr(voc.VOC, "archives", {server.url: md5(server.content)})
    return server


def open_voc(root: Path, tmp_path: Path, download: bool) -> voc.VOC:
    data = voc.VOC(str(root), download=download, size=16, batch_size=2, cache_dir=str(tmp_path / "arrays"))
    data.prepare_data()
    data.setup()
    return data


def test_voc_download_ends_with_a_usable_data_set(published: Server, folder: Path, tmp_path: Path) -> None:
    data = open_voc(folder, tmp_path, download=True)
    assert (len(data.roles["fit"]), len(data.roles["report"])) == (3, 2)
    assert [p.name for p in folder.iterdir()] == ["VOCdevkit"]
    open_voc(folder, tmp_path, download=True)
    open_voc(folder / "VOCdevkit", tmp_path, download=True)
    assert published.asked == [None]  # what is there is not fetched again


def test_voc_is_not_downloaded_unasked(published: Server, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.download=true"):
        open_voc(folder, tmp_path, download=False)
    assert published.asked == []
    assert not folder.exists()


def test_voc_that_lacks_its_lists_is_completed(published: Server, folder: Path, tmp_path: Path) -> None:
    """As left by an unpacking that was killed: the photos alone are not taken for the data set."""
    (folder / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    assert len(open_voc(folder, tmp_path, download=True).roles["fit"]) == 3
