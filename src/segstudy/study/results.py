"""Test results of runs and of masks for each image: the input of a comparison."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segstudy.config.run_names import MACHINE_SETTINGS
from segstudy.errors import DamagedFile, DataError, list_found
from segstudy.files import read_arrays, reading
from segstudy.labels import IGNORE
from segstudy.measures import operating_curve
from segstudy.measures.error_categories import image_errors
from segstudy.runs.headline import headline_size, same_size
from segstudy.runs.record import read_study_records, sealed
from segstudy.runs.tables import comparable, variants
from segstudy.study.counts import Counts, read_counts

Records = Mapping[str, Mapping[str, Any]]

NOT_COMPARED = "how the runs fail was measured at different sizes and is not compared"
"""Why the tests of `at_one_size` have no `sums`."""


@dataclass(frozen=True)
class TestResult:
    """The test of one training of a variant, or a folder of predicted masks.

    names, groups: one for each of the N images; images of one group (a drive, a patient) are not independent.
    counts: at the headline size. sums: by name, (N, …): error counts (`measures.error_categories.image_errors`) and,
    for networks, sums of confidence, offsets and shifts; {} if not measured, or if they cannot be compared because the
    runs saw the images at different sizes. original: counts at original size; None if `counts` are, or if not measured.
    """

    __test__ = False  # not a test class for pytest

    variant: str
    seed: int
    classes: Sequence[str]
    background: int | None
    names: Sequence[str]
    groups: Sequence[str]
    counts: Counts
    sums: Mapping[str, np.ndarray]
    original: Counts | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __repr__(self) -> str:
        whole = self.counts.whole()
        present = whole.truth > 0
        miou = f"mIoU {whole.iou[present].mean():.3f}" if present.any() else "no truth"
        return (
            f"TestResult({self.variant or 'unnamed'}, seed {self.seed}, {len(self.classes)} classes, "
            f"{len(self.names)} images, {miou})"
        )

    @classmethod
    def from_counts(
        cls,
        true_positives: np.ndarray,
        truth: np.ndarray,
        predicted: np.ndarray,
        *,
        names: Sequence[str] | None = None,
        groups: Sequence[Hashable] | None = None,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        variant: str = "",
    ) -> "TestResult":
        """A result from pixel counts of each image and class: integers (N,C), without ignored pixels.

        names: of the images (default: 0…N−1). groups: a label for each image, equal for images that are not
        independent. classes: names (default: "class 0" …). Raises DataError for impossible counts.
        """
        arrays = [np.asarray(a) for a in (true_positives, truth, predicted)]
        if len({a.shape for a in arrays}) > 1 or arrays[0].ndim != 2:
            raise DataError(f"counts of shapes {', '.join(str(a.shape) for a in arrays)}: each is (images, classes)")
        right, true, guessed = (a.astype(np.int64) for a in arrays)
        if any((whole != a).any() for whole, a in zip((right, true, guessed), arrays, strict=True)):
            raise DataError("counts are whole numbers of pixels, not shares")
        if (right < 0).any() or (right > np.minimum(true, guessed)).any():
            raise DataError("true positives must be at least 0 and at most the true and the predicted pixels")
        images, number = right.shape
        names = [str(i) for i in range(images)] if names is None else [str(name) for name in names]
        groups = names if groups is None else [str(group) for group in groups]
        classes = [f"class {c}" for c in range(number)] if classes is None else list(classes)
        for what, given, needed in (("names", names, images), ("groups", groups, images), ("classes", classes, number)):
            if len(given) != needed:
                raise DataError(f"{len(given)} {what} for counts of {images} images and {number} classes")
        return cls(variant, seed, classes, None, names, groups, Counts(right, true, guessed), {})


def read_run(folder: Path, record: Mapping[str, Any], variant: str) -> TestResult:
    """The test result of a finished run. Raises DataError if its files are missing, DamagedFile if they are damaged."""
    counts_file, measures_file = (sealed(folder, f"test/{name}.npz", record) for name in ("counts", "measures"))
    for file in (counts_file, measures_file):
        if not file.is_file():
            raise DataError(
                f"no file {file}: the run was tested by an older version, or the file was removed\n"
                f"  → segstudy evaluate {folder} --retest"
            )
    names, counts = read_counts(counts_file, len(record["class_names"]))
    with reading(measures_file):
        sums = read_arrays(measures_file)
        if [str(n) for n in sums.pop("names")] != names:
            raise ValueError(f"its images are others than those of {counts_file.name}")
        groups = [str(g) for g in sums.pop("groups")]
        lengths = {len(groups), *(len(array) for array in sums.values())}
        if lengths != {len(names)} or any(array.dtype.kind not in "if" for array in sums.values()):
            raise ValueError(f"it does not hold numbers of {len(names)} images")
    if "offset_margins" in sums and sums["offset_margins"].shape[1] != operating_curve.BINS:
        del sums["offset_margins"]  # bins of an older version: other margins
    classes, background = list(record["class_names"]), record["data"]["background"]
    seed, size = int(record.get("seed", 0)), headline_size(record)
    original = counts["original"] if size == "network" else None
    return TestResult(variant, seed, classes, background, names, groups, counts[size], sums, original, record, folder)


def at_one_size(tests: Sequence[TestResult]) -> list[TestResult]:
    """The tests, all at original size and without `sums` if the runs saw the images at different sizes; without `sums`
    alone if they measured them at different sizes."""
    if not same_size(*(t.record for t in tests)):
        return [replace(t, counts=t.original or t.counts, original=None, sums={}) for t in tests]
    measured_at = {t.record.get("measured_at", "network size") for t in tests}
    return list(tests) if len(measured_at) == 1 else [replace(t, sums={}) for t in tests]


def from_masks(
    variant: str,
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    background: int | None,
    groups: Mapping[str, str] | None = None,
) -> TestResult:
    """The result of predicted masks. pairs: (name, truth, labels), the masks uint8 (H,W) of any size."""
    names, sums, counts = [], [], []
    number = len(classes)
    for name, truth, labels in pairs:
        names.append(name)
        sums.append(image_errors(truth, labels, number, background))
        counted = truth != IGNORE
        pair = truth[counted].astype(np.int64) * number + labels[counted]
        counts.append(np.bincount(pair, minlength=number**2).reshape(number, number))
    matrices = np.stack(counts)
    return TestResult(
        variant=variant,
        seed=0,
        classes=classes,
        background=background,
        names=names,
        groups=[(groups or {}).get(name) or name for name in names],
        counts=Counts(matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1), matrices.sum(0)),
        sums={key: np.stack([s[key] for s in sums]) for key in sums[0]},
    )


def read_study(folder: Path) -> tuple[list[list[TestResult]], list[tuple[str, str]]]:
    """Results of a study's finished runs in comparable groups, and (name, reason) of the runs left out.

    Raises DataError if the folder holds no run.
    """
    records, damaged = read_study_records(folder)
    if not records and not damaged:
        studies = sorted({str(file.parent.parent) for file in folder.glob("*/*/record.json")})[:8]
        raise DataError(
            f"no runs in {folder}\n  expected: {folder}/RUN/record.json\n  found:    {list_found(folder)}"
            + "".join(f"\n  → segstudy report {study}" for study in studies)
        )
    left_out = list(damaged.items())
    for name, record in records.items():
        if record.get("status") == "failed":
            left_out.append((name, f"failed: {record.get('error')}"))
        elif record.get("status") != "done":
            left_out.append((name, "not finished: the same command continues it"))
    done = {name: r for name, r in records.items() if r.get("status") == "done"}
    groups = []
    for members in comparable(done):
        names = variant_names(members)
        tests = []
        kept: dict[tuple[str, Any], str] = {}
        for run, record in members.items():
            same = names[run], record.get("seed", 0)
            if same in kept:
                left_out.append((run, f"the same variant and seed as {kept[same]}: a seed counts once"))
                continue
            try:
                tests.append(read_run(folder / run, record, names[run]))
                kept[same] = run
            except (DataError, DamagedFile) as error:
                left_out.append((run, str(error)))
        if tests:
            groups.append(at_one_size(tests))
    return groups, left_out


def variant_names(runs: Records) -> dict[str, str]:
    """Each run's variant: its short name without the seed."""
    bare = {run: variant_changes(record.get("changes", [f"model={run}"])) for run, record in runs.items()}
    first = {tuple(changes): run for run, changes in reversed(bare.items())}
    order = [run for run in runs if run in first.values()]
    named = dict(zip(order, variants({run: {"changes": bare[run]} for run in order}), strict=True))
    return {run: named[first[tuple(changes)]] for run, changes in bare.items()}


def variant_changes(changes: Sequence[str]) -> list[str]:
    """The changes that define a variant: without the seed and machine settings."""
    return [c for c in changes if not c.startswith("seed=") and not MACHINE_SETTINGS.match(c.partition("=")[0])]


def runs_by_variant(tests: Sequence[TestResult]) -> dict[str, list[TestResult]]:
    """Results by variant, sorted by seed; variants in the order of their first run."""
    found: dict[str, list[TestResult]] = {}
    for test in tests:
        found.setdefault(test.variant, []).append(test)
    return {name: sorted(runs, key=lambda t: t.seed) for name, runs in found.items()}
