"""The GPU day: its first steps run on a CPU, every command it would run is valid, and its page says what happened."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import make_pet, make_voc
from PIL import Image

from segstudy.config.overrides import check_overrides
from segstudy.errors import SegstudyError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


gpu_day, gpu_pack = load("gpu_day"), load("gpu_pack")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Data packed as for the GPU machine; a photo of the Pet stand-in that is a link, and one as text."""
    root = tmp_path / "data"
    home = make_voc(root, train=8, val=4)
    photos = sorted((home / "JPEGImages").iterdir())
    pet = make_pet(root / "pet_standin", {"Cat": 3, "dog": 3})
    for number, path in enumerate(sorted((pet / "images").iterdir())):
        path.unlink()
        target = f"../../../VOCdevkit/VOC2012/JPEGImages/{photos[number % len(photos)].name}"
        path.symlink_to(target) if number else path.write_text(target)
    gpu_pack.main(root, out=tmp_path / "packed", side=40, python="")
    return tmp_path / "packed" / "data"


@pytest.fixture
def run_day(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """`gpu_day.py --tiny …` with its Python commands called in this process: imports take longer than all the rest."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def called(day: Any, command: Sequence[str]) -> list[tuple[int, str]]:
        _, script, *words = command
        assert script == "benchmarks/gpu_speed.py"
        try:
            load("gpu_speed").app(words, standalone_mode=False)
        except SegstudyError as error:
            return [(1, str(error))]
        return [(0, capsys.readouterr().out)]

    def run(*words: str) -> tuple[int, str]:
        folders = ["--data", packed, "--wheels", tmp_path, "--work", tmp_path / "work", "--out", tmp_path / "gpu"]
        monkeypatch.setattr(sys, "argv", ["gpu_day.py", "--tiny", *map(str, folders), *words])
        with pytest.raises(SystemExit) as end:
            gpu_day.main()
        return int(end.value.code or 0), capsys.readouterr().out

    monkeypatch.setattr(gpu_day.Day, "run", called)
    return run


def test_its_first_steps_run_on_a_cpu_and_are_not_repeated(packed: Path, tmp_path: Path, run_day: Any) -> None:
    words = ["--steps", "prepare,speed", "--archive", str(tmp_path / "gpu.tar.gz")]
    assert run_day(*words)[0] == 0
    found = json.loads((tmp_path / "gpu" / "speed.json").read_text())
    assert [row["case"] for row in found["rows"]] == ["V1 32² batch 4", "V1 32² batch 4 no device_cache"]
    assert all(row["images_per_second"] > 0 and row["images_per_second_alone"] > 0 for row in found["rows"])
    assert found["profile"]["ms_per_step"] > 0
    assert "| V1 32² batch 4 |" in (tmp_path / "gpu" / "README.md").read_text()
    assert (tmp_path / "gpu.tar.gz").is_file()
    pet = tmp_path / "work" / "data" / "pet_standin" / "oxford-iiit-pet" / "images"
    assert all(Image.open(photo).size == (40, 29) for photo in pet.iterdir())  # links lead to VOC's photos
    assert run_day(*words) == (0, f"results: {tmp_path / 'gpu' / 'README.md'}\n")  # nothing is done a second time


@pytest.mark.parametrize("tiny", [True, False])
def test_every_run_of_its_studies_is_a_valid_command(
    tiny: bool, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def study(day: Any, name: str, common: Any, grids: Any, seeds: Any = (0,)) -> dict[str, Any]:
        asked.extend([*common, *grid, f"study={name}", "hydra.mode=MULTIRUN"] for grid in grids)
        return {}

    monkeypatch.setattr(gpu_day, "study", study)
    day = gpu_day.Day(packed, tmp_path, tmp_path / "work", tmp_path / "out", tiny)
    weights = day.root / "weights" / "mobilenet_v2_imagenet.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    for step in (gpu_day.voc, gpu_day.pet, gpu_day.camvid):
        step(day)
    assert len(asked) == (3 if tiny else 8)
    for overrides in asked:
        check_overrides(overrides)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(60 + 1.25 * 3 * 3131 * 6 / 1000 * 12.1, (256, 12)), (60 + 1.25 * 3 * 3131 * 6 / 1000 * 6.1, (192, 10)),
     (60 + 1.25 * 3 * 3131 * 6 / 1000 * 1.1, (128, 4)), (1, (128, 1))],
)  # fmt: skip
def test_size_and_epochs_are_those_that_fit_at_the_measured_speeds(
    seconds: float, expected: tuple[int, int], tmp_path: Path
) -> None:
    day = gpu_day.Day(tmp_path, tmp_path, tmp_path, tmp_path, False)
    day.ends = gpu_day.time.monotonic() + seconds
    rows = [{"case": f"{name} 256² batch 16", "images_per_second": 1000.0} for name in ("V1", "V4")]
    (tmp_path / "speed.json").write_text(json.dumps({"rows": [{"case": "UPerNet", "error": "none"}, *rows]}))
    assert gpu_day.size_and_epochs_that_fit(day, 3131) == expected


def test_the_device_is_busy_for_the_union_of_its_work() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    assert load("gpu_speed").covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7


def test_a_step_that_fails_is_named_and_the_others_go_on(packed: Path, tmp_path: Path, run_day: Any) -> None:
    (packed / "voc.tar.gz").unlink()
    assert run_day("--steps", "prepare,rest")[0] == 1
    assert "no VOC2012 under" in json.loads((tmp_path / "gpu" / "prepare.json").read_text())["error"]
    page = (tmp_path / "gpu" / "README.md").read_text()
    assert "**prepare** was not finished" in page
    assert "the study voc left no run to predict with" in page


def test_without_tars_it_says_how_to_make_them(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_day.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "make gpu-pack" in done.stderr
