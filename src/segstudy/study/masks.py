"""Compare folders of predicted masks, from any system, with the folder of true masks."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from segstudy.data.folder.declared_classes import read_class_table
from segstudy.data.folder.files import files_in
from segstudy.data.folder.mask_format import Rgb, color_key
from segstudy.data.folder.palettes import Palettes
from segstudy.data.folder.pictures import colours_of_keys, index_picture, open_mask
from segstudy.data.images import PILLOW_ERRORS, open_picture, read_mask
from segstudy.data.text import read_text
from segstudy.errors import ConfigError, DataError, did_you_mean, first_few, first_lines
from segstudy.labels import IGNORE, voc_palette
from segstudy.measures.boundaries import nearest_labels
from segstudy.study.analysis.analyse import analyse
from segstudy.study.analysis.findings import Findings
from segstudy.study.analysis.plan import Plan
from segstudy.study.analysis.verdicts import first_sentence
from segstudy.study.results import from_masks

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True)
class ClassTable:
    """Names and colours of the classes, the background class (None: there is none), and labels that become 255.

    numbers: {label in the masks: class, also of ignored labels}. colours: {class: colour}, where a file gives them.
    """

    classes: Sequence[str]
    palette: Sequence[Rgb]
    background: int | None
    ignored: Sequence[int] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, Rgb] = field(default_factory=dict)


def compare_masks(
    truth: Path, predictions: Sequence[Path], legend: ClassTable, plan: Plan, groups: Mapping[str, str] | None = None
) -> Findings:
    """Findings of folders of masks, by the names of the folders.

    Masks are matched by their paths without suffix. Raises DataError for masks that are missing, of another size or
    with unknown labels, all at once.
    """
    names = _folder_names(predictions)
    pairs = match_masks(truth, predictions)
    read, notes = _reader(pairs, legend)
    tests = []
    for column, (name, folder) in enumerate(zip(names, predictions, strict=True), 1):
        test = from_masks(name, _read(pairs, column, read, name), legend.classes, legend.background, groups)
        tests.append(replace(test, record=_record(truth, folder, legend, len(pairs))))
    group = analyse(tests, plan, f"{len(pairs)} masks of {truth}, at their own size")
    group = replace(group, warnings=[*notes, *group.warnings])
    return Findings(f"{truth.name}: {', '.join(names)}", first_sentence([group]), [group])


def match_masks(truth: Path, predictions: Sequence[Path]) -> dict[str, list[Path]]:
    """Mask files by name: the true mask, then one from each prediction folder. Raises DataError if any are missing."""
    files = {folder: _masks(folder) for folder in (truth, *predictions)}
    if not files[truth]:
        raise DataError(f"no masks in {truth}\n  expected: {truth}/NAME.png (indexed or greyscale, 255 ignored)")
    wrong = []
    for folder in predictions:
        if missing := [name for name in files[truth] if name not in files[folder]]:
            some = first_few(missing)
            wrong.append(f"{folder} lacks {len(missing)} of the {len(files[truth])} masks of {truth}: {some}")
    if wrong:
        raise DataError("\n  ".join(wrong) + "\n  → each true mask needs a prediction with the same name")
    return {name: [files[folder][name] for folder in (truth, *predictions)] for name in files[truth]}


def _masks(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = files_in({"": folder}, SUFFIXES)
    if found.duplicates:
        raise DataError(f"{folder}: {first_few(found.duplicates)} are two masks of one name\n  → keep one of them")
    return found.files


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as are needed to differ."""
    paths = [folder.resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise ConfigError("the same prediction folder is given twice")
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if max(Counter(names).values()) == 1:
            return names
    raise ConfigError("the prediction folders have the same name")


def _read(
    pairs: Mapping[str, list[Path]], column: int, read: Callable[[Path], np.ndarray], name: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, truth, labels) of each pair, with a progress bar. Raises one DataError for all wrong sizes and labels."""
    wrong: list[str] = []
    for key, files in track(pairs.items(), description=name, total=len(pairs), transient=True):
        try:
            truth, labels = (read(files[i]) for i in (0, column))
        except DataError as error:
            wrong.append(str(error).splitlines()[0])
            continue
        if truth.shape != labels.shape:
            wrong.append(f"{files[column]} is {_size(labels)}, its truth {_size(truth)}")
            continue
        if (labels[truth != IGNORE] == IGNORE).any():
            wrong.append(
                f"{files[column]} holds 255 where the truth has a class; a prediction needs a class at every such pixel"
            )
            continue
        yield key, truth, _fill_void(labels)
    if wrong:
        raise DataError(f"{len(wrong)} masks cannot be compared:\n{first_lines(wrong, 8, '  ')}")


def _reader(pairs: Mapping[str, list[Path]], legend: ClassTable) -> tuple[Callable[[Path], np.ndarray], list[str]]:
    """(reads the labels (H,W) of a mask; notes): indexed pictures are read by index, colour or grey value.

    Raises DataError if it cannot be told which of them are the classes.
    """
    files = [path for masks in pairs.values() for path in masks]
    class_of = {color_key(rgb): name for name, rgb in legend.colours.items()}
    palettes = Palettes(_palettes(files), legend.numbers, class_of) if any(map(_is_indexed, files)) else None
    kind = "numbers" if palettes is None else palettes.kind()
    if palettes is None or kind == "numbers":
        return lambda path: read_mask(path, len(legend.classes), dict.fromkeys(legend.ignored, IGNORE)), []
    if not kind:
        raise DataError(
            "are the classes in indexed masks the indices or the colours of their palettes? "
            f"{palettes.doubt()}\n"
            "  → save all masks as greyscale PNG of class numbers, or give the colours of the classes: "
            "--classes FILE, a CSV of index,name,red,green,blue"
        )
    number = {name: int(index) for index, name in legend.numbers.items()}
    label = {key: number[name] for key, name in (class_of if kind == "colours" else legend.numbers).items()}
    label |= {} if kind == "colours" else {str(IGNORE): IGNORE}
    label = {key: IGNORE if value in legend.ignored else value for key, value in label.items()}
    what = "by colour" if kind == "colours" else "by grey value"
    note = f"Indexed masks are read {what}, not by index: {palettes.doubt()}."
    return lambda path: _read_by(path, kind, label), [note]


def _read_by(path: Path, kind: str, label: Mapping[str, int]) -> np.ndarray:
    """Labels uint8 (H,W) of a mask whose colours or grey values are classes. label: {colour or grey value: label}."""
    indices, keys = index_picture(open_mask(path), path, kind)
    if unknown := [key for key in keys if key not in label]:
        raise DataError(f"{path} holds {first_few(unknown)}, which is no class (the masks are read by {kind})")
    return np.array([label[key] for key in keys], np.uint8)[indices]


def _is_indexed(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.mode in ("P", "PA", "1")
    except PILLOW_ERRORS:
        return False  # reported when it is read


def _palettes(files: Sequence[Path]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """({index in use: colour}, the keys in use) of each mask that can be read."""
    for path in files:
        try:
            picture = open_mask(path)
            _, keys = index_picture(picture, path, "numbers")
        except DataError:
            continue  # reported when it is read
        yield colours_of_keys(picture, keys), keys


def _fill_void(labels: np.ndarray) -> np.ndarray:
    """Labels (H,W) with each 255 replaced by the nearest label, or by 0 if all are 255.

    They lie where the truth is 255; as a class of their own they would add edges.
    """
    void = labels == IGNORE
    return np.zeros_like(labels) if void.all() else nearest_labels(labels, void)[0] if void.any() else labels


def _size(labels: np.ndarray) -> str:
    return f"{labels.shape[1]}×{labels.shape[0]}"


def _record(truth: Path, folder: Path, legend: ClassTable, images: int) -> dict[str, Any]:
    """The entries of a run's record that masks provide."""
    return {
        "status": "done",
        "changes": [folder.name],
        "class_names": list(legend.classes),
        "palette": [list(rgb) for rgb in legend.palette],
        "data": {"name": truth.name, "roles": {"report": {"images": images, "split": truth.name}}},
    }


def read_classes(truth: Path, file: Path | None, background: str | None, ignore: Sequence[str] = ()) -> ClassTable:
    """Classes and colours from a CSV (columns index, name, red, green, blue), else from the masks.

    ignore: classes (names or numbers) that become 255; they must be the last ones.

    background: a class's name or number, "none", or None: the class named background, or class 0 without a CSV.
    Raises ConfigError if the background is not one of the classes.
    """
    colors: dict[str, Rgb] = {}
    if file is not None:
        table = read_class_table(file)
        numbers, colors = table.names, table.colours
        if list(numbers) != [str(i) for i in range(len(numbers))]:
            raise DataError(f"{file}: the classes' numbers are not 0, 1, 2, …: {', '.join(numbers)}")
        classes = list(numbers.values())
        palette = [colors.get(name, rgb) for name, rgb in zip(classes, voc_palette(len(classes)), strict=True)]
    else:
        highest, palette = _scan_labels(truth)
        classes = [f"class {c}" for c in range(highest + 1)]
    ignored = sorted(_number("--ignore", name, classes) for name in ignore)
    kept = classes[: len(classes) - len(ignored)]
    if ignored != list(range(len(kept), len(classes))):
        raise ConfigError(f"--ignore {', '.join(ignore)}: only the last classes can be left out ({', '.join(classes)})")
    numbers_of = {str(i): name for i, name in enumerate(classes)}
    return ClassTable(
        kept, palette[: len(kept)], _background(background, kept, file is None), ignored, numbers_of, colors
    )


def _scan_labels(truth: Path) -> tuple[int, list[Rgb]]:
    """The highest label below 255 in the true masks, and their palette, or the VOC palette if they have none."""
    highest, palette = 0, None
    for path in _masks(truth).values():
        picture = open_picture(path)
        labels = np.asarray(picture)
        highest = max(highest, int(labels[labels != IGNORE].max(initial=0)))
        palette = palette or (picture.getpalette() if picture.mode == "P" else None)
    if highest >= IGNORE:
        raise DataError(f"{truth} holds a label above 255; at most 255 classes can be compared")
    if not palette:
        return highest, voc_palette(highest + 1)
    colors = np.zeros(768, int)
    colors[: len(palette)] = palette
    return highest, [tuple(rgb) for rgb in colors.reshape(256, 3).tolist()]


def _background(wanted: str | None, classes: Sequence[str], unnamed: bool) -> int | None:
    if wanted is None:
        return 0 if unnamed else next((i for i, name in enumerate(classes) if name.lower() == "background"), None)
    if wanted.lower() == "none":
        return None
    return _number("--background", wanted, classes)


def _number(option: str, wanted: str, classes: Sequence[str]) -> int:
    if wanted in classes:
        return list(classes).index(wanted)
    if wanted.isdigit() and int(wanted) < len(classes):
        return int(wanted)
    raise ConfigError(
        f"{option} {wanted}: no such class{did_you_mean(wanted, classes)}\n"
        f"  → a name or a number ({', '.join(classes)})"
    )


def read_groups(file: Path) -> dict[str, str]:
    """name → group from a CSV of two columns; a first line `name,group` is a heading."""
    rows = [row for row in csv.reader(read_text(file).splitlines()) if row]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{file}: each line is NAME,GROUP")
    return {_without_suffix(row[0]): row[1].strip() for row in rows if row[:2] != ["name", "group"]}


def _without_suffix(name: str) -> str:
    """A mask's name without the suffix of a picture (frame.001 has none)."""
    path = Path(name.strip())
    return (path.with_suffix("") if path.suffix.lower() in (*SUFFIXES, ".jpg", ".jpeg") else path).as_posix()
