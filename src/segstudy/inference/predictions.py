"""A folder of predictions: masks, overlays, a table and the settings. The same command continues it."""

import json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segstudy.console import console, print_line
from segstudy.data.tiff import INSTALL, has_geo_tags, is_readable
from segstudy.errors import ConfigError, first_lines
from segstudy.files import read_csv, read_text, write_csv, write_text
from segstudy.inference.evaluate import write_json
from segstudy.inference.model import Model
from segstudy.inference.photos import Photo, find_photos, natural, pixel_limit
from segstudy.inference.pictures import is_ours
from segstudy.inference.predict import Failure, PredictionPipeline, PredictionTask, Row, area_columns

RECORD, TABLE = "predictions.json", "predictions.csv"
OFTEN = 10.0
"""Seconds between writes of the table. After a kill, photos without a row in the table are predicted again."""


class Predictions:
    """The masks, overlays and rows in a folder.

    Raises ConfigError if they were made by another run or with other settings; with `overwrite`, starts a new table.
    """

    def __init__(self, folder: Path, model: Model, task: PredictionTask, overwrite: bool = False):
        self.folder, self.overlays, self.overwrite = folder, task.alpha is not None, overwrite
        names = [name for _, name in area_columns(model, task.keep)]
        self.fields = ["file", "mask", "width", "height", "confidence", *(f"area_{name}" for name in names)]
        self.about: dict[str, Any] = {"run": str(model.folder.resolve()), "made_by": settings(model, task)}
        self.about |= {"classes": model.classes, "palette": model.palette, "device": model.device_line}
        self.rows: dict[str, dict[str, Any]] = {}
        self.written = time.monotonic()
        if (earlier := self._made_by()) is None:
            return
        now = self.about["made_by"]
        differs = [f"{key}: {earlier.get(key)}, now {now[key]}" for key in now if earlier.get(key) != now[key]]
        if differs and not overwrite:
            raise ConfigError(
                f"{folder} holds predictions made with other settings:\n  " + "\n  ".join(differs)
                + "\n  → another --out FOLDER, or --overwrite"
            )  # fmt: skip
        if not differs and (folder / TABLE).is_file():
            rows = [row for row in read_csv(folder / TABLE) if set(row) == set(self.fields)]
            self.rows = {row["mask"]: row for row in rows if (folder / row["mask"]).is_file()}

    def _made_by(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(read_text(self.folder / RECORD))["made_by"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{self.folder / RECORD} is damaged or not written by segstudy: {error}\n  → another --out"
            raise ConfigError(message) from error

    def todo(self, photos: Sequence[Photo]) -> list[Photo]:
        """The photos to predict: all with `overwrite`, else those without a newer mask.

        Raises ConfigError if this would overwrite a file that is no prediction, or the prediction of another photo.
        """
        left, foreign = [], []
        for photo in photos:
            row = self.rows.get(photo.mask.as_posix())
            outputs = [self.folder / name for name in (photo.mask, photo.overlay)[: 1 + self.overlays]]
            if row and row["file"] != os.path.abspath(photo.file) and not self.overwrite:
                foreign.append(f"{outputs[0]}: predicted from {row['file']}, not from {photo.file}")
            elif self.overwrite or not row or not are_newer(outputs, photo.file):
                left.append(photo)
                foreign += [f"{f}: not written by segstudy" for f in outputs if f.exists() and not is_ours(f)]
        if foreign:
            listed = first_lines(foreign, 5, "  ")
            raise ConfigError(f"these files would be overwritten:\n{listed}\n  → another --out FOLDER")
        return left

    def add(self, row: Row) -> None:
        """Add a row to the table; the table is written at most every OFTEN seconds."""
        self.rows[row["mask"]] = row
        if time.monotonic() - self.written > OFTEN:
            self.write()

    def write(self) -> None:
        """Write the table, sorted by mask name, and the settings."""
        try:
            write_text(self.folder, RECORD, json.dumps(self.about, indent=1) + "\n")
            masks = sorted(self.rows, key=lambda mask: natural(Path(mask)))
            write_csv(self.folder, TABLE, self.fields, (self.rows[mask] for mask in masks))
        except OSError as error:
            raise ConfigError(f"--out {self.folder} cannot be written: {error}") from error
        self.written = time.monotonic()


def are_newer(files: Sequence[Path], than: Path) -> bool:
    """Whether all files exist and are at least as new as `than`."""
    try:
        return min(file.stat().st_mtime for file in files) >= than.stat().st_mtime
    except OSError:
        return False


def settings(model: Model, task: PredictionTask) -> dict[str, Any]:
    """Everything a prediction depends on; a folder holds only predictions with equal settings."""
    checksum = 0
    for name, values in sorted(model.network.state_dict().items()):
        checksum = zlib.crc32(values.cpu().contiguous().view(-1).numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    seen = model.fit.at(task.size, task.tiles is not None)
    return {
        "weights": f"{checksum:08x}",
        "size": "original" if seen == model.fit.at("original") else task.size,
        "tiles": [task.tiles.side, task.tiles.overlap] if task.tiles else None,
        "tta": [task.views.flip, list(task.views.scales)] if task.views else None,
        "classes": [name for _, name in area_columns(model, task.keep)],
    }


def predict_all(
    model: Model,
    task: PredictionTask,
    words: Sequence[str],
    out: Path,
    overwrite: bool = False,
    json_file: Path | None = None,
) -> bool:
    """Predict the photos that files, folders and patterns name, and print a summary. False if any failed.

    json_file: file for the rows, the failures and the speed. Raises ConfigError as `find_photos` and `Predictions` do.
    """
    with pixel_limit(task.max_pixels):
        photos, ours = find_photos(words)
        for word in words:
            if all((Path(word).expanduser() / name).is_dir() for name in ("images", "masks")):
                print_line(f"{word}/masks is predicted too, as photos → name {Path(word, 'images')}", "yellow")
        predictions = Predictions(out, model, task, overwrite)
        todo = predictions.todo(photos)
        began = time.perf_counter()
        failures = _predict(model, task, todo, predictions) if todo else []
    seconds = time.perf_counter() - began
    done, skipped = len(todo) - len(failures), len(photos) - len(todo)
    for failure in failures:
        print_line(failure.message, "red")
    if not is_readable() and (geo := sum(has_geo_tags(photo.file) for photo in photos)):
        print_line(f"{geo} photos are GeoTIFFs, their masks are not: this needs tifffile\n  → {INSTALL}", "yellow")
    counts = [f"{done} of {len(photos)} photos predicted"]
    counts += [f"{skipped} already have predictions (--overwrite predicts them again)"] * bool(skipped)
    counts += [f"{ours} files skipped that are predictions themselves"] * bool(ours)
    counts += [f"{len(failures)} failed (above)"] * bool(failures)
    counts += [f"{done / seconds:.1f} photos/s on {model.device_line}"] * bool(done)
    print_line("; ".join(counts))
    print_line(f"{out}: masks, {'overlays/ ' * predictions.overlays}and {TABLE}")
    if json_file:
        failed = [{"file": str(f.file), "error": f.message} for f in failures]
        rows = [predictions.rows[m] for p in photos if (m := p.mask.as_posix()) in predictions.rows]
        about = predictions.about | {"out": str(out), "predicted": done, "skipped": skipped}
        write_json(rows, about | {"seconds": round(seconds, 3), "failed": failed}, json_file)
    return not failures


def _predict(model: Model, task: PredictionTask, photos: Sequence[Photo], predictions: Predictions) -> list[Failure]:
    """Predict photos with a progress bar and update the table; returns the failures."""
    failures: list[Failure] = []
    texts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    predictions.write()  # so that no mask exists without its settings, even after a kill
    with Progress(*texts, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("predicting", total=len(photos))
        pipeline = PredictionPipeline(model, task, predictions.folder, lambda n: bar.advance(shown, n))
        try:
            for outcome in pipeline.run(photos):
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    predictions.add(outcome)
        finally:
            predictions.write()
    return failures
