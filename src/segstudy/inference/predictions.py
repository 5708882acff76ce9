"""Photos predicted into a folder: what made the predictions, a table of them; the same command continues it."""

import csv
import io
import json
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segstudy.errors import ConfigError
from segstudy.files import read_text, write_text
from segstudy.inference.evaluate import write_json
from segstudy.inference.model import Model
from segstudy.inference.photos import RECORD, Photo, find_photos, is_ours, natural, pixel_limit
from segstudy.inference.predict import Failure, PredictionPipeline, PredictionTask, Row, area_columns

TABLE = "predictions.csv"
OFTEN = 10.0
"""Seconds between two times that the table is written; what a killed process had not written is predicted again."""


class Predictions:
    """The masks, overlays and rows in a folder.

    Raises ConfigError if the folder holds what another run or other settings predicted; with overwrite its table begins
    anew then.
    """

    def __init__(self, folder: Path, model: Model, task: PredictionTask, overwrite: bool = False):
        self.folder, self.task, self.overwrite = folder, task, overwrite
        names = [name for _, name in area_columns(model, task.keep)]
        self.fields = ["file", "mask", "width", "height", "confidence", *(f"area_{name}" for name in names)]
        self.about: dict[str, Any] = {"run": str(model.folder.resolve()), "made_by": settings(model, task)}
        self.about |= {"classes": model.classes, "palette": model.palette, "device": model.device_line}
        self.rows: dict[str, dict[str, Any]] = {}
        self.written = time.monotonic()
        if earlier := self._earlier():
            differs = [
                f"{k}: {earlier.get(k)}, now {v}" for k, v in self.about["made_by"].items() if earlier.get(k) != v
            ]
            if differs and not overwrite:
                raise ConfigError(
                    f"{folder} holds predictions that were made otherwise:\n  " + "\n  ".join(differs)
                    + "\n  → another --out FOLDER, or --overwrite"
                )  # fmt: skip
            if not differs:
                self._take_rows()

    def _earlier(self) -> dict[str, Any]:
        try:
            return json.loads(read_text(self.folder / RECORD))["made_by"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.folder / RECORD} is not what segstudy wrote: {error}\n  → another --out"
            ) from error

    def _take_rows(self) -> None:
        """The rows of masks that are there."""
        try:
            table = io.StringIO(read_text(self.folder / TABLE), newline="")
            rows = [row for row in csv.DictReader(table) if set(row) == set(self.fields)]
        except FileNotFoundError:
            return
        self.rows = {row["mask"]: row for row in rows if (self.folder / row["mask"]).is_file()}

    def todo(self, photos: Sequence[Photo]) -> list[Photo]:
        """The photos that are to be predicted: all with overwrite, else those without a mask that is newer.

        Raises ConfigError rather than write over a file that is no prediction, or one of another photo.
        """
        left, foreign = [], []
        for photo in photos:
            mask, row = self.folder / photo.mask, self.rows.get(photo.mask.as_posix())
            if row and row["file"] != os.path.abspath(photo.file) and not self.overwrite:
                foreign.append(f"{mask}: predicted of {row['file']}, not of {photo.file}")
            elif self.overwrite or not row or not self._new(photo):
                left.append(photo)
                outputs = [mask, *([self.folder / photo.overlay] if self.task.alpha is not None else [])]
                foreign += [f"{f}: not written by segstudy" for f in outputs if f.exists() and not is_ours(f)]
        if foreign:
            more = f"\n  … and {len(foreign) - 5} more" if len(foreign) > 5 else ""
            raise ConfigError(
                "these files would be written over:\n  "
                + "\n  ".join(foreign[:5])
                + more
                + "\n  → another --out FOLDER"
            )
        return left

    def _new(self, photo: Photo) -> bool:
        outputs = [photo.mask, *([photo.overlay] if self.task.alpha is not None else [])]
        try:
            changed = photo.file.stat().st_mtime
            return all((self.folder / place).stat().st_mtime >= changed for place in outputs)
        except OSError:
            return False

    def add(self, row: Row) -> None:
        """A row of the table, which is written from time to time."""
        self.rows[row["mask"]] = row
        if time.monotonic() - self.written > OFTEN:
            self.write()

    def write(self) -> None:
        """The table in the order of the masks, and what made it; neither ever half written."""
        try:
            write_text(self.folder, RECORD, json.dumps(self.about, indent=1) + "\n")
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, self.fields)
            table.writeheader()
            table.writerows(self.rows[mask] for mask in sorted(self.rows, key=lambda mask: natural(Path(mask))))
            write_text(self.folder, TABLE, text.getvalue())
        except OSError as error:
            raise ConfigError(f"--out {self.folder} cannot be written: {error}") from error
        self.written = time.monotonic()


def settings(model: Model, task: PredictionTask) -> dict[str, Any]:
    """What a prediction depends on: predictions made with other settings are not mixed."""
    sum_of = 0
    for name, values in sorted(model.network.state_dict().items()):
        sum_of = zlib.crc32(values.cpu().contiguous().view(-1).numpy().tobytes(), zlib.crc32(name.encode(), sum_of))
    return {
        "weights": f"{sum_of:08x}",
        "size": "original" if task.tiles and task.size == "train" else task.size,
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
    file: Path | None = None,
    console: Console | None = None,
) -> bool:
    """Predict the photos that files, folders and patterns name, and say what was done. False if any failed.

    file: for the rows, the failures and the speed, as JSON. Raises ConfigError as `find_photos` and `Predictions` do.
    """
    console = console or Console()
    with pixel_limit(task.max_pixels):
        photos, ours = find_photos(words)
        there = Predictions(out, model, task, overwrite)
        todo = there.todo(photos)
        began = time.perf_counter()
        failures = _predict(model, task, todo, there, console) if todo else []
    seconds = time.perf_counter() - began
    done = len(todo) - len(failures)
    for failure in failures:
        console.print(failure.message, style="red", highlight=False, markup=False, soft_wrap=True)
    said = [f"{done} of {len(photos)} photos predicted"]
    said += [f"{len(photos) - len(todo)} were there already (--overwrite predicts them again)"] * (todo != photos)
    said += [f"{ours} files passed over that are predictions themselves"] * (ours > 0)
    said += [f"{len(failures)} failed (above)"] * bool(failures)
    line = "; ".join(said) + (f"; {done / seconds:.1f} photos/s on {model.device_line}" if done else "")
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    kinds = "masks, overlays/" if task.alpha is not None else "masks"
    console.print(f"{out}: {kinds} and {TABLE}", highlight=False, markup=False, soft_wrap=True)
    if file:
        failed = [{"file": str(f.file), "error": f.message} for f in failures]
        rows = [there.rows[m] for p in photos if (m := p.mask.as_posix()) in there.rows]
        about = there.about | {"out": str(out), "predicted": done, "skipped": len(photos) - len(todo)}
        write_json(rows, about | {"seconds": round(seconds, 3), "failed": failed}, file)
    return not failures


def _predict(
    model: Model, task: PredictionTask, photos: Sequence[Photo], there: Predictions, console: Console
) -> list[Failure]:
    """Predict, draw the bar, and keep the table; what failed."""
    failures: list[Failure] = []
    texts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    there.write()  # what made the first mask is known before there is one
    with Progress(*texts, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("predicting", total=len(photos))
        count = 0
        line = PredictionPipeline(model, task, there.folder, lambda seen: bar.update(shown, completed=max(seen, count)))
        try:
            for outcome in line.run(photos):
                count += 1
                bar.update(shown, completed=max(line.seen, count))
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    there.add(outcome)
        finally:
            there.write()
    return failures
