"""Oxford-IIIT Pet in its official layout: border protocols, splits, breeds."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_pet
from PIL import Image

from segstudy.data.datasets.pet import Pet
from segstudy.errors import ConfigError, DataError

BREEDS = {"Abyssinian": 10, "Bengal": 10, "yorkshire_terrier": 20}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_pet(tmp_path / "photos", BREEDS)
    return tmp_path / "photos"


def build(root: Path, **changes: Any) -> Pet:
    data = Pet(str(root), **{"size": (40, 56), "batch_size": 2, "cache_dir": str(root.parent / "arrays")} | changes)
    data.prepare_data()
    data.setup()
    return data


def names(data: Pet, role: str) -> list[str]:
    return [s.name for s in data.roles[role].samples]


@pytest.mark.parametrize(
    ("border", "labels"),
    [("ignore", (1, 0, 255)), ("background", (1, 0, 0)), ("foreground", (1, 0, 1)), ("class", (1, 0, 2))],
)
def test_border_protocols(root: Path, border: str, labels: tuple[int, ...]) -> None:
    data = build(root, border=border)
    trimap = np.array(Image.open(root / "oxford-iiit-pet/annotations/trimaps/Abyssinian_11.png"))
    assert names(data, "report")[0] == "Abyssinian_11"
    assert set(np.unique(trimap)) == {1, 2, 3}
    expected = np.array([0, *labels])[trimap]
    np.testing.assert_array_equal(data.original_mask("report", 0).numpy(), expected)
    assert len(data.classes) == len(data.palette) == (3 if border == "class" else 2)
    assert data.describe()["protocol"] == f"border={border}, split=official"


def test_protocols_have_other_fingerprints(root: Path) -> None:
    keys = {
        build(root, border=b).describe()["roles"]["report"]["fingerprint"]
        for b in ("ignore", "background", "foreground")
    }
    assert len(keys) == 3


def test_selection_is_drawn_from_trainval_by_breed(root: Path) -> None:
    data = build(root, select_fraction=0.2)
    breeds = Counter(n.rpartition("_")[0] for n in names(data, "select"))
    assert breeds == {"Abyssinian": 2, "Bengal": 2, "yorkshire_terrier": 4}
    assert len(names(data, "fit")) == 32
    assert len(names(data, "report")) == 6
    assert data.overlap() == 0
    assert names(build(root, select_fraction=0.2), "select") == names(data, "select")
    assert names(build(root, select_fraction=0.2, seed=1), "select") != names(data, "select")


def test_alphabetical_is_the_first_80_percent_of_all_names(root: Path) -> None:
    (root / "oxford-iiit-pet/images/._Abyssinian_1.jpg").write_bytes(b"\0\5\26\7")
    (root / "oxford-iiit-pet/annotations/trimaps/._Abyssinian_1.png").write_bytes(b"\0\5\26\7")
    data = build(root, split="alphabetical", select_fraction=0.0)
    every = sorted(p.stem for p in (root / "oxford-iiit-pet/images").glob("[!.]*.jpg"))
    assert (len(every), names(data, "fit"), names(data, "report")) == (46, every[:36], every[36:])
    assert {n.rpartition("_")[0] for n in names(data, "report")} == {"yorkshire_terrier"}
    assert data.describe()["protocol"].endswith("split=alphabetical")


def test_bad_settings_and_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be ignore, background, foreground or class"):
        build(root, border="void")
    with pytest.raises(ConfigError, match=r"must be official or alphabetical"):
        build(root, split="random")
    with pytest.raises(DataError, match=r"no oxford-iiit-pet under(.|\n)*no such folder(.|\n)*data\.download=true"):
        build(tmp_path / "nowhere")
    (root / "oxford-iiit-pet/images/Bengal_3.jpg").unlink()
    with pytest.raises(DataError, match=r"1 files of 'trainval' of Oxford-IIIT Pet are missing"):
        build(root)
