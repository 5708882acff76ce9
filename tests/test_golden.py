"""A fixed small study gives the figures that it gave before, on any CPU: `tests/golden.json`.

After a deliberate change of figures: `python tests/test_golden.py` writes the file anew; say why in the commit.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segstudy.build import build_network
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.runs.history import read_history
from segstudy.study.analysis.analyse import analyse_study
from segstudy.study.analysis.plan import Plan
from segstudy.train_and_test import run

GOLDEN = Path(__file__).with_name("golden.json")
SETTINGS = [
    "data=folder", "data.size=32", "data.batch_size=4", "data.val=0.25", "augment=strong", "optim.lr=0.003",
    "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2", "encoder.widths=[8,8,8]",
    "decoder.widths=[8,8]", "callbacks.ema.enabled=true", "callbacks.ema.decay=0.9", "callbacks.tta.enabled=true",
    "callbacks.crf.enabled=true", "callbacks.training_metrics.enabled=true", "++callbacks.pictures.enabled=false",
]  # fmt: skip
MODELS, SEEDS = ("v1", "v3"), (0, 1)


def write_photos(root: Path, count: int = 24, size: int = 40) -> None:
    """Squares of three colours on noise, as PNG: the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(5))
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "dataset.yaml").write_text("background: 0\n")
    for number in range(count):
        image = rng.integers(60, 120, (size, size, 3))
        mask = np.zeros((size, size), np.uint8)
        for label in rng.integers(1, 4, 2):
            side, (y, x) = int(rng.integers(8, 20)), rng.integers(0, size - 8, 2)
            image[y : y + side, x : x + side] = rng.integers(0, 60, 3) + 190 * (np.arange(3) == label - 1)
            mask[y : y + side, x : x + side] = label
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02d}.png")


def figures(folder: Path) -> dict[str, Any]:
    """The figures of the study: initial weights, losses, metrics, and the difference with its interval."""
    write_photos(folder / "photos")
    found: dict[str, Any] = {}
    for model in MODELS:
        for seed in SEEDS:
            given = [f"model={model}", f"seed={seed}", *SETTINGS, f"data.root='{folder / 'photos'}'"]
            given += [f"data.cache_dir='{folder / 'cache'}'"]
            cfg = compose_config(given)
            apply_overrides(cfg, given)
            check(cfg)
            network, _ = build_network(cfg, 4)
            place = folder / "study" / f"{model}_{seed}"
            record = claim_folder(place, cfg)
            record.note(changes=[f"model={model}", f"seed={seed}"])
            run(cfg, place, record)
            values, history = record.values, read_history(place / "history.csv")
            found[f"{model} seed {seed}"] = {
                "initial": [float(p.detach().double().abs().sum()) for p in list(network.parameters())[:4]],
                "loss": [row["train/loss"] for row in history],
                "miou": {key: m["miou"] for key, m in values["metrics"].items()},
                "tta": values["metrics_tta"]["miou"],
                "crf": values["metrics_crf"]["miou"],
            }
    plan = Plan(pairs=[("v1", "v3")], min_images=1)
    group = analyse_study(folder / "study", plan)[0].groups[0]
    d = group.differences[0]
    found["v3 against v1"] = {"delta": d.delta, "interval": [d.low, d.high], "p": d.p}
    shown = ("missed", "spilled", "mislabelled", "hallucinated", "boundary_iou", "ece_all")
    found["failures of v1"] = {name: group.variants[0].metrics[name].value for name in shown}
    return found


def compare(now: Any, before: Any, where: str = "") -> None:
    """Initial weights to rounding; what training made of them within what other CPUs' rounding grows to."""
    if isinstance(before, dict):
        assert now.keys() == before.keys(), where
        for key in before:
            compare(now[key], before[key], f"{where} {key}")
    elif isinstance(before, list):
        assert len(now) == len(before), where
        for a, b in zip(now, before, strict=True):
            compare(a, b, where)
    else:
        exact = "initial" in where
        assert now == pytest.approx(before, rel=1e-6 if exact else 0.02, abs=0 if exact else 0.005, nan_ok=True), where


def test_a_fixed_study_gives_the_figures_of_before(tmp_path: Path) -> None:
    compare(figures(tmp_path), json.loads(GOLDEN.read_text()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        GOLDEN.write_text(json.dumps(figures(Path(temporary)), indent=1) + "\n")
