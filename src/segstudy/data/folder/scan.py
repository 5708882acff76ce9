"""Finds the images and masks of the user's folder, and pairs them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

from segstudy.data.folder.coco import CocoFile, coco_format, is_coco, match_images, object_files
from segstudy.data.folder.description import Description, yaml_line
from segstudy.data.folder.files import NamedFiles, files_in, find_places, suffixes_in
from segstudy.data.folder.formats import detect_format, is_annotation, unread_annotations
from segstudy.data.folder.layouts import MASK_PLACES, PLAIN, find_layout
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.names import IMAGES, columns, path_ends, role_of_list
from segstudy.data.folder.pictures import with_values
from segstudy.data.folder.problems import Problem, errors_in, problem
from segstudy.data.images import Sample, image_name
from segstudy.data.text import read_json, read_rows, read_text
from segstudy.errors import ConfigError, DataError, first_few, list_found
from segstudy.formatting import counted

MASKS = (*PLAIN, ".jpg", ".jpeg")  # JPEG: to refuse it with the reason

ROLES = ("train", "val", "test")

SAME_NAME = "files of the same name"


@dataclass
class FolderScan:
    """The pairs of image and mask in a folder, and the files without partner.

    Names are those of `image_name`. split_of: {name: split} from a CSV of pairs, or from COCO files such as
    instances_train.json. notes: for the user.
    """

    format: MaskFormat
    samples: list[Sample]
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)
    split_of: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def scan_folder(description: Description) -> FolderScan:
    """Find the images and masks of a folder. Raises DataError if there are none, or if the masks' format is unknown."""
    scan = _from_pairs(description) if description.pairs else _from_folders(description)
    if not scan.samples:
        if errors := errors_in(scan.problems):
            raise DataError("\n".join(errors))
        raise DataError(
            f"no image in {description.root} has a mask of the same name\n"
            f"  images without mask: {first_few(scan.without_mask) or 'none'}\n"
            f"  masks without image: {first_few(scan.without_image) or 'none'}\n"
            f"  → {_ending_advice(scan)}use equal names but for the suffix (images/a.jpg, masks/a.png), "
            "or in dataset.yaml, pairs: a CSV file"
        )
    if description.mask_values:
        if scan.format.annotated:
            raise ConfigError(f"mask_values: {description.mask_values} is for pictures, not for {scan.format.summary}")
        scan.format = with_values(scan.format, description.mask_values)
    if layout := description.layout:
        keys = ", ".join(yaml_line(key, value) for key, value in layout.keys.items())
        scan.notes.insert(0, f"layout: {layout.tool}; in dataset.yaml: {keys}")
    scan.notes.append(f"masks: {scan.format.summary}")
    used = {*description.pairs, description.train, description.val, description.test}
    tables = [path.name for path in sorted(description.root.iterdir()) if path.suffix in (".csv", ".txt")]
    tables = [name for name in tables if name not in used and name[:-4] not in used and not role_of_list(Path(name))]
    if tables and not (scan.format.annotated or description.declares_classes):
        line = yaml_line("classes", tables[0])
        scan.notes.append(f"the classes have no names: if {first_few(tables)} has them, in dataset.yaml: {line}")
    if description.group and not any(s.group for s in scan.samples):  # unless a CSV of pairs has set them
        _assign_groups(scan, description.group)
    return scan


def _ending_advice(scan: FolderScan) -> str:
    """The line of dataset.yaml for names of which one kind has a further ending, such as a_mask; or ""."""
    images, masks = scan.without_mask, scan.without_image
    for key, names, longer in (("mask_suffix", images, masks), ("image_suffix", masks, images)):
        known = set(names)
        endings = [{name[i:] for i in range(1, len(name)) if name[:i] in known} for name in longer]
        if endings and (common := sorted(set.intersection(*endings), key=len)):
            return f"in dataset.yaml, {yaml_line(key, common[0])}; or "
    return ""


def _from_folders(description: Description) -> FolderScan:
    root = description.root
    homes = find_places(root, description.images)
    if not homes:
        raise DataError(
            f"no folder of images {root / description.images}\n  found: {list_found(root)}\n"
            f"  → {_deeper_advice(root)}put the images there; or name the folders in dataset.yaml: images: FOLDER and "
            "masks: FOLDER"
        )
    places = _find_masks(description, homes)
    images, pictures = files_in(homes, IMAGES, description.image_suffix), NamedFiles()
    notes = _left_out("images", images, description.image_suffix)
    if places != homes or description.mask_suffix:
        pictures = files_in(places, MASKS, description.mask_suffix)
        taken = set(pictures.files.values())  # the folder of the images may hold that of the masks
        images.files = {name: path for name, path in images.files.items() if path not in taken}
        notes += _left_out("masks", pictures, description.mask_suffix) if places != homes else []
    if not images.files:
        raise DataError(
            f"no images in {root / description.images}\n"
            f"  expected: NAME{description.image_suffix} with {', '.join(IMAGES)}\n"
            f"  found: {first_few(suffixes_in(homes)) or 'no files'}"
        )
    annotations = files_in(places, (".json",))
    coco = _read_coco_files(annotations.files, images.files, "masks" not in description.model_fields_set)
    is_annotated = coco or images.files.keys() & annotations.files.keys() or (annotations.files and not pictures.files)
    if is_annotated and (both := sorted(images.files.keys() & pictures.files.keys())):
        found = (pictures.files[both[0]], next(iter(annotations.files.values())))
        _ask_which(root, [f"{_below(root, path.parent)}/*{path.suffix}" for path in found])
    if coco:
        scan = _from_coco(description, *coco, images)
    else:
        scan = _from_pairs_of_files(description, images, annotations if is_annotated else pictures, places)
    scan.notes += notes
    return scan


def _deeper_advice(root: Path) -> str:
    """The folder below that has a known layout, such as the only folder of an archive; or ""."""
    folders = (path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern)) if path.is_dir())
    for path in islice(folders, 20):
        with suppress(DataError):
            if layout := find_layout(path, with_classes=False):
                return f"use {path} ({layout.tool}); or "
    return ""


def _left_out(kind: str, named: NamedFiles, ending: str) -> list[str]:
    """A note on files without the ending of names."""
    files = f"{counted(len(named.others), 'file')} without {ending} ({first_few(named.others, 3)})"
    return [f"{kind} left out: {files}"] if named.others else []


def _ask_which(root: Path, choices: Sequence[str]) -> NoReturn:
    lines = " or ".join(yaml_line("masks", choice) for choice in choices)
    raise DataError(f"which are the masks in {root}: {' or '.join(choices)}?\n  → in dataset.yaml, {lines}")


def _from_pairs_of_files(
    description: Description, images: NamedFiles, masks: NamedFiles, places: dict[str, Path]
) -> FolderScan:
    """Images and masks of equal names."""
    if not masks.files:
        raise DataError(
            f"no masks in {', '.join(map(str, places.values()))}\n"
            f"  expected: NAME{description.mask_suffix}.png, or .json files of LabelMe, Supervisely or COCO\n"
            f"  found: {first_few(suffixes_in(places)) or 'no files'}{unread_annotations(places.values())}"
        )
    paths = [masks.files[name] for name in sorted(masks.files)]
    return FolderScan(
        detect_format(paths, description),
        [Sample(n, images.files[n], masks.files[n]) for n in sorted(images.files.keys() & masks.files.keys())],
        sorted(images.files.keys() - masks.files.keys()),
        sorted(masks.files.keys() - images.files.keys()),
        problems=problem(SAME_NAME, images.duplicates + masks.duplicates),
    )


def _find_masks(description: Description, homes: dict[str, Path]) -> dict[str, Path]:
    """The folders of the masks, or their COCO files (see `find_places`). Annotations may be beside the images."""
    root = description.root
    tried = [description.masks] if "masks" in description.model_fields_set else list(MASK_PLACES)
    found = {name: places for name in tried if (places := find_places(root, name))}
    usable = [name for name, places in found.items() if files_in(places, (*MASKS, ".json")).files]
    if len(usable) > 1:
        _ask_which(root, usable)
    if usable and "masks" not in description.model_fields_set and _annotated(homes):
        _ask_which(root, [*usable, description.images])
    if found:
        return found[usable[0]] if usable else next(iter(found.values()))
    if "masks" not in description.model_fields_set:
        if any(any(home.rglob("*.json")) for home in homes.values()):
            return homes
        if files := find_places(root, "*.json"):  # such as Label Studio's result.json
            return files
    raise DataError(
        f"no masks in {root}: looked for {', '.join(tried)}\n  found: {list_found(root)}"
        + (unread_annotations([root]) or "\n  → name the folder or the COCO file in dataset.yaml: masks: NAME")
    )


def _annotated(homes: dict[str, Path]) -> bool:
    """Whether there are annotations of a known tool beside the images."""
    for path in list(files_in(homes, (".json",)).files.values())[:20]:
        with suppress(DataError):
            if is_annotation(read_json(path)):
                return True
    return False


def _read_coco_files(
    paths: dict[str, Path], images: dict[str, Path], is_guess: bool
) -> tuple[list[CocoFile], list[str]] | None:
    """(the COCO files of objects, why each other COCO file is left out).

    None if there are none, or if the files belong to an image each. is_guess: whether dataset.yaml does not name them.
    """
    own = sorted(images.keys() & paths.keys())
    for name in own:
        with suppress(DataError):  # of a file that cannot be read, which is reported later
            if is_coco(read_json(paths[name])):
                break
            return None
    else:
        if own:
            return None
    contents = {path: read_json(path) for path in paths.values()}
    if is_guess or len(contents) > 1:
        contents = {path: content for path, content in contents.items() if is_coco(content)}
    return object_files(contents) if contents else None


def _from_coco(description: Description, files: list[CocoFile], left_out: list[str], images: NamedFiles) -> FolderScan:
    match = match_images(files, images.files)
    samples = [Sample(n, images.files[n], match.entries[n][0][0].path) for n in sorted(match.entries)]
    faults = [f"{file.path.name}: {fault}" for file in files for fault in file.faults]
    orphans = [
        f"{file.path.name}: {len(each)} of image {number!r}"
        for file in files
        for number, each in file.annotations.items()
        if number not in file.images
    ]
    advice = "write the folder into file_name, such as val2017/a.jpg"
    problems = [
        *problem(SAME_NAME, images.duplicates),
        *problem("COCO files that contradict themselves", faults),
        *problem("annotations of images that are not listed", orphans, "warning"),
        *problem("file_name that means several images", match.ambiguous, "error", advice),
        *problem("images that are listed twice: their objects are joined", match.joined, "warning"),
    ]
    groups = sorted(set().union(*(file.groups for file in files)))
    notes = [f"COCO files left out: {first_few(left_out)}"] if left_out else []
    notes += [f"categories left out, without objects and above others: {first_few(groups)}"] if groups else []
    roles = match.roles()
    return FolderScan(
        coco_format(match, files, description.line_width),
        samples,
        sorted(images.files.keys() - match.entries.keys()),
        match.without_image,
        roles if "train" in roles.values() else {},
        problems,
        notes,
    )


def _from_pairs(description: Description) -> FolderScan:
    """The pairs that tables or lists name."""
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
            duplicates.append(f"{name} with {_below(root, samples[name].mask)} and {_below(root, mask)}")
    if not samples:
        raise DataError(
            f"no pair in {', '.join(description.pairs)} exists: {first_few(missing) or 'no rows'}\n"
            f"  → write paths relative to {root}"
        )
    problems = [
        *problem(f"files of {', '.join(description.pairs)} that are missing", missing),
        *problem("images with two masks, or two files of one name", duplicates),
    ]
    mask_format = detect_format([sample.file("mask") for sample in samples.values()], description)
    return FolderScan(mask_format, list(samples.values()), split_of=split_of, problems=problems)


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


def _below(root: Path, file: Path | None) -> str:
    return str(file.relative_to(root)) if file and file.is_relative_to(root) else str(file)


def _assign_groups(scan: FolderScan, pattern: str) -> None:
    """Set the group of each sample to the part of its name that `pattern` matches."""
    try:
        matches = [re.search(pattern, s.name) for s in scan.samples]
    except re.error as error:
        raise ConfigError(f"group: {pattern!r} is not a regular expression: {error}") from error
    names = [sample.name for sample in scan.samples]
    if not any(matches):
        raise ConfigError(f"group: {pattern!r} matches no name, such as {first_few(names, 3)}")
    scan.samples = [replace(s, group=m.group() if m else "") for s, m in zip(scan.samples, matches, strict=True)]
    if unmatched := [name for name, match in zip(names, matches, strict=True) if not match]:
        found = f"{len(unmatched)} names ({first_few(unmatched, 3)})"
        scan.notes.append(f"group: {found} do not match: each forms its own group")
