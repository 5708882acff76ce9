"""The allocator: tcmalloc by a new start where there is one, else glibc's thresholds; never both, never in a loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segstudy import allocator

SAY = "from segstudy import allocator; allocator.use_fast_memory(); import os; "
SAY += "print(allocator.chosen, '|', os.environ.get('LD_PRELOAD', ''))"

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems are left as they are")


def said(**environment: str) -> str:
    around = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", allocator.CHOICE)}
    done = subprocess.run(
        [sys.executable, "-c", SAY], env=around | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_a_named_library_is_preloaded_by_one_new_start() -> None:
    library = next(p for p in ctypes_libraries() if Path(p).is_file())
    assert said(SEGSTUDY_ALLOCATOR=library) == f"{Path(library).name} | {library}"


def ctypes_libraries() -> list[str]:
    """Paths of shared libraries that this process has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[-1] for line in lines if line.endswith((".so", ".so.6", ".so.1"))]


@linux
@pytest.mark.parametrize("library", ["defualt", "/none/lib.so", "/none/a.so:/none/b.so", "/none/with space.so"])
def test_a_named_library_that_cannot_be_loaded_is_an_error(library: str) -> None:
    around = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {allocator.CHOICE: library}
    done = subprocess.run([sys.executable, "-c", SAY], env=around, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"SEGSTUDY_ALLOCATOR={library} cannot be loaded: ")


@linux
def test_a_script_from_standard_input_is_not_started_anew() -> None:
    library = next(p for p in ctypes_libraries() if Path(p).is_file())
    around = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {allocator.CHOICE: library}
    script = SAY.replace("; ", "\n")
    done = subprocess.run([sys.executable, "-"], env=around, input=script, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"{allocator.GLIBC} |", done.stderr


@linux
def test_what_is_preloaded_already_stays() -> None:
    assert said(LD_PRELOAD="/none/libjemalloc.so.2") == "libjemalloc.so.2 | /none/libjemalloc.so.2"


@linux
def test_it_can_be_left_as_it_is() -> None:
    assert said(SEGSTUDY_ALLOCATOR="default") == "the system's |"


def test_the_newest_tcmalloc_of_the_known_folders_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    monkeypatch.setattr(allocator, "FOLDERS", (str(tmp_path / "a"), str(tmp_path / "b")))
    assert allocator.installed_library() is None
    for name in ("b/libtcmalloc.so.4", "b/libtcmalloc_minimal.so.4", "b/libtcmalloc_minimal.so.4.5.10"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert allocator.installed_library() == str(tmp_path / "b" / "libtcmalloc_minimal.so.4.5.10")


@linux
def test_thresholds_of_glibc_are_taken() -> None:
    code = "from segstudy import allocator; print(allocator.raise_thresholds())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() in ("True", "False")  # False with another C library
    if "glibc" in os.confstr("CS_GNU_LIBC_VERSION").lower() and "malloc" not in os.environ.get("LD_PRELOAD", ""):
        assert done.stdout.strip() == "True"
