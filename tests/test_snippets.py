"""Every Python snippet of README.md, CONTRIBUTING.md and docs/ runs as written, where there are photos and a run."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_run, photo
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets() -> list[tuple[str, str]]:
    """(page and line, code) of each block marked `python`; one that is not meant to run has more words there."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found.append((f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}", block[1]))
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: photo.jpg, photos/ with twelve images and masks, and the run runs/study/v4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(12):
        mask = photo(i, tmp_path / "photos" / "images" / f"{i}.jpg")
        file = tmp_path / "photos" / "masks" / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.where(mask == 255, 0, mask).astype(np.uint8)).save(file)
    (tmp_path / "photos" / "dataset.yaml").write_text("background: 0\n")
    photo(99, tmp_path / "photo.jpg")
    make_run(tmp_path / "runs" / "study" / "v4")
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # Lightning's, of small data and few workers
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("place", "code"), [pytest.param(*s, id=s[0]) for s in snippets()])
def test_snippet(place: str, code: str) -> None:
    with torch.random.fork_rng(devices=[]):
        exec(compile(code, place, "exec"), {"__name__": "snippet"})


def test_the_pages_have_snippets() -> None:
    pages = {place.split(":")[0] for place, _ in snippets()}
    assert {"README.md", "CONTRIBUTING.md", "python.md"} <= pages
