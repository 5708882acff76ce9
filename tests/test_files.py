"""A file is replaced whole or not at all, and nothing leads out of the folder that is written into."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from segstudy.errors import ConfigError
from segstudy.files import (
    PARTIAL,
    atomic_write,
    check_output,
    move,
    open_lock,
    open_to_read,
    read_csv,
    read_text,
    remove_partials,
    subfolder,
    write_csv,
    write_text,
)

SOURCE = str(Path(__file__).parents[1] / "src")


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    file.write_text("old")
    with atomic_write(tmp_path, "figures.csv") as new:
        new.write(b"new")
        new.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_after_an_error_a_file_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path, "figures.csv") as new:
        new.write(b"ne%d" % (1 // 0))
    assert file.read_text() == "old"
    with pytest.raises(OSError, match="figures"):
        write_text(file, "inside.csv", "new")
    with pytest.raises(OSError, match="figures"):
        write_text(tmp_path, "figures.csv/inside.csv", "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*figures\.csv'"),
        atomic_write(tmp_path, "figures.csv"),
    ):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")  # a device on which every write fails so
    assert not list(tmp_path.iterdir())


def test_a_link_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    """Also where the file that is written first would lie under the name of an earlier version."""
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.write_text("mine")
    for name in ("record.json", ".record.json.partial"):
        (run / name).symlink_to(outside)
    (run / "nowhere.json").symlink_to(tmp_path / "not there yet")
    os.link(outside, run / "hard.json")
    os.mkfifo(run / "pipe.json")
    for name in ("record.json", "nowhere.json", "hard.json", "pipe.json"):
        write_text(run, name, "ours")
        assert stat.S_ISREG((run / name).lstat().st_mode)
        assert (run / name).read_text() == "ours"
    assert outside.read_text() == "mine"
    assert not (tmp_path / "not there yet").exists()


@pytest.mark.parametrize("moment", ["fsync", "rename"])
def test_a_killed_writer_leaves_the_earlier_file(moment: str, tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("old")
    code = f"""
import os, signal, sys
from pathlib import Path
from segstudy.files import atomic_write
os.{moment} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
with atomic_write(Path(sys.argv[1]), "last.ckpt", durable=True) as file:
    file.write(b"new")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": SOURCE})
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "last.ckpt").read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {tmp_path / "last.ckpt"}
    assert left.suffix == PARTIAL  # as `remove_partials` knows
    write_text(tmp_path, "last.ckpt", "new")  # and it is in nobody's way
    assert (tmp_path / "last.ckpt").read_text() == "new"


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    ours, mine = f".last.ckpt.{'0a' * 8}{PARTIAL}", f"notes{PARTIAL}"
    for folder in (run, run / "checkpoints", outside):
        folder.mkdir(exist_ok=True)
        for name in (ours, mine):
            (folder / name).write_text("half")
    (run / "pictures").symlink_to(outside)
    (tmp_path / "link").symlink_to(run)
    remove_partials(tmp_path / "link")
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob(f"*{PARTIAL}")}
    assert left == {f"run/{mine}", f"run/checkpoints/{mine}", f"outside/{mine}", f"outside/{ours}"}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_linked_folder_is_refused_at_every_depth(depth: int, tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    (outside / "old.npz").write_text("mine")
    inner = ["a", "b", "c"]
    run.joinpath(*inner[: depth - 1]).mkdir(parents=True)
    run.joinpath(*inner[:depth]).symlink_to(outside)
    with pytest.raises(ConfigError, match=f"{inner[depth - 1]} is a link to .*outside"):
        write_text(run, "a/b/c/old.npz", "ours")
    (tmp_path / "new").write_text("ours")
    with pytest.raises(ConfigError, match="is a link"):
        move(tmp_path / "new", run, "a/b/c/old.npz")
    with pytest.raises(ConfigError, match="is a link"):
        subfolder(run, "a/b/c")
    assert [p.name for p in outside.iterdir()] == ["old.npz"]
    assert (outside / "old.npz").read_text() == "mine"


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """As `runs` often is, to a larger disk."""
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large")
    write_text(tmp_path / "runs" / "study" / "v1", "test/counts.npz", "ours")
    assert (tmp_path / "large" / "study" / "v1" / "test" / "counts.npz").read_text() == "ours"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "", "."])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a path inside the folder"):
        write_text(tmp_path / "run", name, "ours")
    assert not (tmp_path / "x").exists()


def test_names_as_long_as_a_disk_takes_them(tmp_path: Path) -> None:
    name = "ж" * 125 + ".json"  # 255 bytes
    write_text(tmp_path, name, "ours")
    assert (tmp_path / name).read_text() == "ours"


def test_a_lock_is_no_link_no_pipe_and_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    lock = tmp_path / ".lock"
    for target in ("mine", "not there"):
        lock.symlink_to(tmp_path / target)
        with pytest.raises(ConfigError, match="is a link"):
            open_lock(tmp_path)
        lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(ConfigError, match="not a regular file"):
        open_lock(tmp_path)
    lock.unlink()
    os.link(tmp_path / "mine", lock)
    open_lock(tmp_path).close()
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "not there").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    for path in (tmp_path / "record.json", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            open_to_read(path)
    (tmp_path / "plain").write_text("é")
    (tmp_path / "link").symlink_to("plain")
    assert read_text(tmp_path / "link") == "é"


@pytest.mark.parametrize("text", ["=1+1", "-cat", "@x", "+x", "'=1", "''-a", "'a", "a", "-0.5", "+3e-4", "-inf", ""])
def test_a_table_keeps_texts_and_holds_no_formula(tmp_path: Path, text: str) -> None:
    write_csv(tmp_path, "t.csv", ["x", "y"], [{"x": text, "y": 1}])
    assert read_csv(tmp_path / "t.csv") == [{"x": text, "y": "1"}]
    written = (tmp_path / "t.csv").read_text().splitlines()[1]
    assert written[0] not in "=+-@" or written.startswith(("-0.5", "+3e-4", "-inf"))


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("new/deep/x.png", False, None),
        ("x.png", False, None),
        ("file", False, None),
        ("new/deep", True, None),
        ("", True, None),
        ("file/x.png", False, "file is not a folder"),
        ("file/deep", True, "file is not a folder"),
        ("file", True, "file is not a folder"),
        ("", False, "it is a folder"),
        ("x" * 300, False, "File name too long"),
        ("/proc/x.png", False, "cannot be written: "),
        ("/proc/x", True, "cannot be written: "),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, folder: bool, said: str | None
) -> None:
    (tmp_path / "file").touch()
    if said is None:
        check_output(tmp_path / name, "--out", folder)
    else:
        with pytest.raises(ConfigError, match=f"^--out (.|\n)*{said}"):
            check_output(tmp_path / name, "--out", folder)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_suffix_of_a_picture_is_checked(tmp_path: Path) -> None:
    check_output(tmp_path / "a.PNG", "--out", suffixes=(".png", ".svg"))
    with pytest.raises(ConfigError, match=r"must end in \.png or \.svg"):
        check_output(tmp_path / "a.xyz", "--out", suffixes=(".png", ".svg"))
