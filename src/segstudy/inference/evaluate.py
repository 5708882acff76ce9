"""Test finished runs again: on other images, with test-time augmentation, at another size, as an ensemble."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from segstudy.build import build_test_module, build_tester, testing_callbacks
from segstudy.callbacks.per_image_confusion import protocol_of_images, test_record
from segstudy.callbacks.per_image_errors import FILES
from segstudy.callbacks.progress import Progress
from segstudy.config.check import check
from segstudy.config.trust import is_trusted
from segstudy.console import console, print_line
from segstudy.data.bands import Bands
from segstudy.data.datamodule import SegmentationData
from segstudy.data.fit import Fit
from segstudy.errors import ConfigError
from segstudy.files import move, remove, write_text
from segstudy.formatting import format_number
from segstudy.inference.loading import (
    EvaluationSpec,
    LoadedRun,
    evaluation_config,
    evaluation_data,
    load_runs,
    other_settings,
)
from segstudy.inference.model import TwoChannels
from segstudy.inference.pictures import save_mask
from segstudy.inference.tta import TestTimeAugmentation
from segstudy.labels import labels_at
from segstudy.metrics import confusion
from segstudy.precision import choose_device, describe_device
from segstudy.runs.headline import SIZES
from segstudy.runs.locking import run_lock
from segstudy.runs.record import Record, environment
from segstudy.tiles import Tiles, logits_in_tiles, predict_tiled

Counts = dict[str, np.ndarray]
"""The confusion matrix int64 (C,C) at each of SIZES."""


class Evaluation(L.LightningModule):
    """Confusion matrices, at both sizes, of each member and of their ensemble; with views, also of both with views.

    A member's logits are interpolated to an image's original size, as in its own test. The ensemble and views average
    probabilities, and these are interpolated. tiles: in which each network sees every image; None: in which it sees
    large ones, as in the run's test. The last row's labels at original size are saved in `masks`.
    """

    def __init__(
        self,
        members: Sequence[LoadedRun],
        views: TestTimeAugmentation | None = None,
        masks: Path | None = None,
        tiles: Tiles | None = None,
    ):
        super().__init__()
        self.names, self.views, self.masks, self.tiles = [m.name for m in members], views, masks, tiles
        self.networks = nn.ModuleList(TwoChannels(m.network) for m in members)
        self.counts: dict[str, dict[str, Tensor]] = {}

    def scores(self, image: Tensor, tiles: Tiles | None = None) -> dict[str, Tensor]:
        """Row → logits or probabilities (B,C,H,W) of an image in 0…1, which the networks see in tiles or as a whole."""
        rows: dict[str, Tensor] = {}
        for views in [None, self.views] if self.views else [None]:
            seen = {name: _seen(n, image, views, tiles) for name, n in zip(self.names, self.networks, strict=True)}
            if len(seen) > 1:
                each = seen.values() if views else [logits.float().softmax(1) for logits in seen.values()]
                seen[f"ensemble of {len(seen)}"] = torch.stack(list(each)).mean(0)
            rows |= {f"{name}, with views" if views else name: scores for name, scores in seen.items()}
        return rows

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        data: SegmentationData = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = self.scores(batch["image"], self.tiles or data.tiles_for(batch["image"].shape[2:]))
        for i, index in enumerate(batch["index"].tolist()):
            original = data.original_mask("report", index).to(self.device)
            for name, scores in rows.items():
                self._count(name, "network", scores[i].argmax(0), batch["mask"][i])
                labels = labels_at(scores[i], original.shape)
                self._count(name, "original", labels, original)
            if self.masks is not None:  # the labels are the last row's
                sample = data.roles["report"].samples[index]
                save_mask(labels.to(torch.uint8).cpu().numpy(), self.masks, f"{sample.name}.png", data.palette)

    def _count(self, name: str, size: str, labels: Tensor, mask: Tensor) -> None:
        classes = len(self.trainer.datamodule.classes)  # type: ignore[attr-defined]
        sums = self.counts.setdefault(name, {})
        sums[size] = sums.get(size, 0) + confusion(labels[None], mask[None], classes)


def _seen(network: nn.Module, image: Tensor, views: TestTimeAugmentation | None, tiles: Tiles | None) -> Tensor:
    """Logits (B,C,H,W) of an image; probabilities with views."""
    if views is None:
        return logits_in_tiles(network, image, tiles) if tiles else network(image)

    def mean(part: Tensor) -> Tensor:
        return views.mean_probability(network, part)

    return predict_tiled(mean, image, tiles) if tiles else mean(image)


def evaluate(module: Evaluation, cfg: DictConfig, data: SegmentationData) -> dict[str, Counts]:
    """Row → confusion matrices: each member, and the ensemble if there are several."""
    with TemporaryDirectory() as unused:
        build_tester(cfg, Path(unused), [Progress()]).test(module, datamodule=data, verbose=False)
    return {name: {size: sums[size].cpu().numpy() for size in SIZES} for name, sums in module.counts.items()}


# The run's own test


def retest(folder: Path, settings: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Repeat a finished run's own test, and replace its `test/` and the results in its record.

    settings: paths on this machine. Returns the new record, and a line with the changes. Raises ConfigError if the run
    is not finished, if another process uses its folder, or if the reported images are not the run's.
    """
    if other := other_settings(settings):
        raise ConfigError(f"{' '.join(other)} would change the test; with --retest, only paths can be set")
    (member,) = load_runs([folder])
    if member.record.get("status") != "done":
        raise ConfigError(f"{folder} is not finished (status: {member.record.get('status')}): finish it first")
    cfg = evaluation_config([member], EvaluationSpec(settings))
    with run_lock(folder):
        data = evaluation_data(cfg, [member], EvaluationSpec(settings))
        if differences := other_images(data, member.record):
            raise ConfigError(f"{folder} cannot be tested again here: {differences}")
        own = drop_own_callbacks(cfg)
        check(cfg, False, ("callbacks",))
        callbacks = testing_callbacks(cfg)
        with TemporaryDirectory(dir=folder, prefix=".retest-") as place:
            module = build_test_module(member.network, data)
            build_tester(cfg, Path(place), [*callbacks, Progress()]).test(module, datamodule=data, verbose=False)
            made = {file.name: file for file in Path(place, "test").iterdir()}
            try:
                for name in {*made, *FILES, "samples.npz"}:  # files that this test does not write are removed
                    if name in made:
                        move(made[name], folder, f"test/{name}")
                    else:
                        remove(folder, f"test/{name}")
            except OSError as error:  # most often a folder in a file's place
                raise ConfigError(f"{folder / 'test'} cannot be written: {error}\n  → remove it") from error
        entries = test_record(callbacks, data.classes)
        line = against_record(entries["metrics"], data, member.record) + own
        again = environment() | {"device": device_line(cfg)}
        record = Record(folder)
        described = {"roles": data.describe()["roles"], "protocol": data.protocol()}  # now of all images
        record.seal(["test/*.npz"], **entries, data=record.values["data"] | described, tested_again=again)
    return record.values, line


def drop_own_callbacks(cfg: DictConfig) -> str:
    """Remove untrusted callbacks from a run's config; returns a text that names those that were enabled."""
    targets = {str(name): str(part["_target_"]) for name, part in cfg.callbacks.items()}
    own = {name: target for name, target in targets.items() if not is_trusted(target)}
    missed = [name for name in own if cfg.callbacks[name].get("enabled", True)]
    for name in own:
        del cfg.callbacks[name]
    if not missed:
        return ""
    trust = ",".join(sorted({own[name].split(".")[0] for name in missed}))
    return f"; without callbacks.{', callbacks.'.join(missed)} (to use: SEGSTUDY_TRUST={trust})"


def device_line(cfg: DictConfig) -> str:
    """Device, precision and the reason, as in a record."""
    return describe_device(*choose_device(cfg.trainer.accelerator, cfg.trainer.precision))


# Results


def other_images(data: SegmentationData, record: Mapping[str, Any]) -> str:
    """How the evaluated images or their size differ from the run's own test; "" if they are the same."""
    own, now = {"protocol": ""} | Bands().values() | record["data"], data.describe()
    tested_on, here = (values["roles"]["report"] for values in (own, now))
    now["protocol"] = protocol_of_images(now["protocol"], record.get("images_tested", math.inf), tested_on["images"])
    both: dict[str, tuple[Any, Any]] = {
        k: (repr(own[k]), repr(now[k])) for k in ("name", "protocol", *Bands().values())
    }
    both["seen at"] = Fit.of(own).seen, data.fit.seen
    both |= {k: (repr(tested_on[k]), repr(here[k])) for k in ("split", "images")}
    return ", ".join(f"{k} {b} (the run's own test: {a})" for k, (a, b) in both.items() if a != b)


def against_record(metrics: Mapping[str, Any], data: SegmentationData, record: Mapping[str, Any]) -> str:
    """A line that compares a run's metrics with those of its own test."""
    if "metrics" not in record:
        return f"nothing to compare with: the record holds no test results (status: {record.get('status')})"
    if differences := other_images(data, record):
        return f"not the run's own test: {differences}"
    here = len(data.roles["report"])
    if (own := record.get("images_tested", here)) < here:
        return f"not the run's own test, which was on {own} of the {here} images"
    pairs = [(metrics[size][key], value) for size in SIZES for key, value in record["metrics"][size].items()]
    changed = [abs(a - b) for a, b in pairs if not (math.isnan(a) and math.isnan(b))]
    largest = max((math.inf if math.isnan(d) else d for d in changed), default=0.0)
    fresh = data.roles["report"].key != record["data"]["roles"]["report"]["fingerprint"]
    files = "; the files or their dates have changed since" if fresh else ""
    if largest == 0:
        return f"all metrics equal those of the run's own test{files}"
    return f"largest difference from the run's own test: {largest:.2g} (tested on {record.get('device', '?')}){files}"


def trained_on(data: SegmentationData, members: Sequence[LoadedRun]) -> list[str]:
    """A line for each member that was, or may have been, trained or selected on the evaluated images."""
    lines = []
    held = [data.roles[role].key if role in data.roles else "" for role in ("fit", "select")]
    report, seen = data.roles["report"], data.overlap()
    for member in members:
        own = member.record["data"]
        trained = [(own["roles"].get(role) or {}).get("fingerprint", "") for role in ("fit", "select")]
        if trained == held:
            lines += [f"{member.name} was trained or selected on {seen} of the {len(report)} images"] if seen else []
        # A fingerprint begins with that of the whole list; another seed may draw other images from the same list.
        elif _lists(trained) != _lists(held):
            if own["name"] == data.name:
                lines.append(f"{member.name} was trained on other lists than data.train: it may have seen these images")
        elif seen or _lists([report.key]) <= _lists(held):
            lines.append(f"{member.name} drew its training images from the same list: it may have seen these images")
    return lines


def _lists(fingerprints: Sequence[str]) -> set[str]:
    return {f.partition("-")[0] for f in fingerprints if f}


def print_rows(rows: Mapping[str, Mapping[str, Any]], members: int) -> None:
    """Print a table of the rows (row of `Evaluation.scores` → `dataset_metrics`), and the gain by averaging."""
    table = Table(title="mean IoU and pixel accuracy at both sizes")
    for column in ("", "mIoU", "mIoU original", "accuracy", "accuracy original"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in rows.items():
        values = (row["metrics"][size][key] for key in ("miou", "pixel_accuracy") for size in SIZES)
        table.add_row(escape(name), *(format_number(v, 4) for v in values))
    console.print(table)
    names = list(rows)
    step = members + 1 if members > 1 else 2
    for block in (names[i : i + step] for i in range(0, len(names), step)):
        *singles, mean = block
        miou = {size: {name: rows[name]["metrics"][size]["miou"] for name in block} for size in SIZES}
        gains = (f"{m[mean] - max(m[s] for s in singles):+.4f} at {size} size" for size, m in miou.items())
        against = "the best of its members" if members > 1 else "the plain prediction"
        print_line(f"{mean}, against {against}: mIoU {', '.join(gains)}")


def write_json(rows: Any, about: Mapping[str, Any], file: Path) -> None:
    """Write results, such as metrics and confusion matrices, and what they are of. The file is written atomically."""
    write_text(file.parent, file.name, json.dumps({**about, "results": rows}, indent=1, default=str))
