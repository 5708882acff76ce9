"""Pairs of image and mask that a table or a list names."""

from pathlib import Path

from segstudy.data.folder.description import Description
from segstudy.data.folder.names import columns, path_ends
from segstudy.data.folder.problems import Problem, problem
from segstudy.data.folder.text import read_rows, read_text
from segstudy.data.images import Sample, image_name
from segstudy.errors import DataError, first_few


def read_pairs(description: Description) -> tuple[list[Sample], dict[str, str], list[Problem]]:
    """(the pairs, {name: value of the column split}, problems). Raises DataError if no pair exists."""
    root = description.root
    rows = [row for name in description.pairs for row in _pairs_in(description.require("pairs", name))]
    column = description.group if description.group and any(description.group in row for row in rows) else "group"
    samples: dict[str, Sample] = {}
    split_of, missing, duplicates = {}, [], []
    for row in rows:
        image = _existing(row["image"], root, root / description.images)
        mask = _existing(row["mask"], root, root / description.masks)
        missing += [row[kind] or f"row without {kind}" for kind, file in (("image", image), ("mask", mask)) if not file]
        if image is None or mask is None:
            continue
        name = image_name(image.relative_to(root) if image.is_relative_to(root) else image)
        if name not in samples:
            samples[name] = Sample(name, image, mask, row.get(column, ""))
            if row.get("split"):
                split_of[name] = row["split"]
        elif (samples[name].image, samples[name].mask) != (image, mask):
            duplicates.append(f"{name} with {below(root, samples[name].mask)} and {below(root, mask)}")
    if not samples:
        raise DataError(
            f"no pair in {', '.join(description.pairs)} exists: {first_few(missing) or 'no rows'}\n"
            f"  → write paths relative to {root}"
        )
    problems = [
        *problem(f"files of {', '.join(description.pairs)} that are missing", missing),
        *problem("images with two masks, or two files of one name", duplicates),
    ]
    return list(samples.values()), split_of, problems


def _pairs_in(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with the columns image and mask, or of a list with an image and a mask in each line."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    listed = [columns(line) for line in lines]
    if all(len(each) == 2 for each in listed):  # no header
        return [dict(zip(("image", "mask"), each, strict=True)) for each in listed]
    rows = [{key.lower(): value for key, value in row.items()} for row in read_rows(path)]
    if not rows or not {"image", "mask"} <= rows[0].keys():
        raise DataError(
            f"{path} needs the columns image and mask, or two files in each line: images/a.jpg masks/a.png\n"
            f"  found: {first_few(lines, 3) or 'no lines'}"
        )
    return rows


def _existing(text: str, *homes: Path) -> Path | None:
    """The file that a path in a table means: as written, or the longest end of it that exists below `homes`."""
    if text and (homes[0] / text).is_file():
        return homes[0] / text
    candidates = (home / end for end in path_ends(text) for home in homes)
    return next((file for file in candidates if file.is_file()), None)


def below(root: Path, file: Path | None) -> str:
    """A file as it is shown: below the root if it is there."""
    return str(file.relative_to(root)) if file and file.is_relative_to(root) else str(file)
