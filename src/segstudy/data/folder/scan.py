"""Finds the images and masks of the user's folder, and pairs them."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from os.path import commonprefix
from pathlib import Path

from segstudy.data.folder.coco import CocoFile, coco_format, is_coco, match_images, object_files
from segstudy.data.folder.description import Description
from segstudy.data.folder.files import NamedFiles, files_below, files_in, find_places, suffixes_in
from segstudy.data.folder.formats import detect_format, unread_annotations
from segstudy.data.folder.layouts import MASK_PLACES, PLAIN, form_of
from segstudy.data.folder.mask_format import MaskFormat
from segstudy.data.folder.names import IMAGES, ImageNames, columns, path_ends, role_of_list, roles_in
from segstudy.data.folder.pictures import with_values
from segstudy.data.folder.problems import Problem, ask_which, problem, yaml_line
from segstudy.data.images import Sample, image_name
from segstudy.data.text import read_json, read_rows, read_text
from segstudy.errors import ConfigError, DataError, first_few, list_found
from segstudy.formatting import counted

MASKS = (*PLAIN, ".jpg", ".jpeg")  # JPEG: to refuse it with the reason
ROLES = ("train", "val", "test")
Files = dict[str, Path]
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
        if errors := [str(each) for each in scan.problems if each.severity == "error"]:
            raise DataError("\n".join(errors))
        left = {"images": scan.without_mask, "masks": scan.without_image}
        starts = {kind: commonprefix(names) for kind, names in left.items()}  # noqa: RUF071, not of paths
        lines = " and ".join(yaml_line(kind, f"{getattr(description, kind)}/{text}*") for kind, text in starts.items())
        raise DataError(
            f"no image in {description.root} has a mask of the same name\n"
            f"  images without mask: {first_few(scan.without_mask) or 'none'}\n"
            f"  masks without image: {first_few(scan.without_image) or 'none'}\n"
            "  → use equal names but for the suffix (images/a.jpg, masks/a.png), or in dataset.yaml, pairs: a CSV file"
            + f"\n    if only their starts differ, in dataset.yaml: {lines}"
            * all(starts.values())
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
    found = [path for suffix in ("csv", "txt") for path in sorted(description.root.glob(f"*.{suffix}"))]
    found = [path for path in found if not {path.name, path.stem} & used and not role_of_list(path)]
    known = ImageNames(sample.name for sample in scan.samples if found)
    tables = [path.name for path in found if not roles_in(path, known)]
    if tables and not (scan.format.annotated or description.declares_classes):
        line = yaml_line("classes", tables[0])
        scan.notes.append(f"the classes have no names: if {first_few(tables)} has them, in dataset.yaml: {line}")
    if description.group and not any(s.group for s in scan.samples):  # unless a CSV of pairs has set them
        _assign_groups(scan, description.group)
    return scan


def _from_folders(description: Description) -> FolderScan:
    root = description.root
    homes = find_places(root, description.images)
    if not homes:
        raise DataError(
            f"no folder of images {root / description.images}\n  found: {list_found(root)}\n"
            "  → put the images there; or name the folders in dataset.yaml: images: FOLDER and masks: FOLDER"
        )
    places = _find_masks(description, homes)
    images, pictures, notes = files_in(homes, IMAGES, description.image_suffix), NamedFiles(), []
    if places != homes or description.mask_suffix:
        pictures = files_in(places, MASKS, description.mask_suffix)
        taken = set(pictures.files.values())  # the folder of the images may hold that of the masks
        images.files = {name: path for name, path in images.files.items() if path not in taken}
        images.others = sorted({*images.others} - {path.name for path in taken})
    kinds = ("images", images, description.image_suffix), ("masks", pictures, description.mask_suffix)
    for kind, named, ending in kinds if places != homes else kinds[:1]:
        files = f"{counted(len(named.others), 'file')} without {ending} ({first_few(named.others, 3)})"
        notes += [f"{kind} left out: {files}"] if named.others else []
    if not images.files:
        raise DataError(
            f"no images in {root / description.images}\n"
            f"  expected: NAME{description.image_suffix} with {', '.join(IMAGES)}\n"
            f"  found: {first_few(suffixes_in(homes)) or 'no files'}\n"
            "  → save them in one of these formats; of a volume (.nii.gz, .dcm), each slice, and its mask as PNG"
        )
    annotations = files_in(places, (".json",))
    coco = _read_coco_files(annotations.files, images.files, "masks" not in description.model_fields_set)
    is_annotated = coco or images.files.keys() & annotations.files.keys() or (annotations.files and not pictures.files)
    if is_annotated and (both := sorted(images.files.keys() & pictures.files.keys())):
        found = (pictures.files[both[0]], next(iter(annotations.files.values())))
        ask_which(root, [{"masks": f"{_below(root, path.parent)}/*{path.suffix}"} for path in found])
    if coco:
        scan = _from_coco(description, *coco, images)
    else:
        scan = _by_names(description, images, annotations if is_annotated else pictures, places)
    scan.notes += notes
    return scan


def _by_names(description: Description, images: NamedFiles, masks: NamedFiles, places: dict[str, Path]) -> FolderScan:
    """Images and masks of equal names."""
    if not masks.files:
        raise DataError(
            f"no masks in {', '.join(map(str, places.values()))}\n"
            f"  expected: NAME{description.mask_suffix}.png, or .json files of LabelMe, Supervisely or COCO\n"
            f"  found: {first_few(suffixes_in(places)) or 'no files'}{unread_annotations(places.values())}"
        )
    notes, problems = _pair_the_rest(images.files, masks.files)
    paths = [masks.files[name] for name in sorted(masks.files)]
    return FolderScan(
        detect_format(paths, description),
        [Sample(n, images.files[n], masks.files[n]) for n in sorted(images.files.keys() & masks.files.keys())],
        sorted(images.files.keys() - masks.files.keys()),
        sorted(masks.files.keys() - images.files.keys()),
        problems=problems + problem(SAME_NAME, images.duplicates + masks.duplicates),
        notes=notes,
    )


def _pair_the_rest(images: dict[str, Path], masks: dict[str, Path]) -> tuple[list[str], list[Problem]]:
    """Give masks the names of their images, if these differ only in case, or in folders that one of them lacks."""
    times = Counter(map(str.casefold, images))
    free = {name.casefold(): name for name in images.keys() - masks.keys() if times[name.casefold()] == 1}
    known, masks_of = ImageNames(free), defaultdict(list)
    for name in sorted(masks.keys() - images.keys()):
        if len(found := known.find(name.casefold())) == 1:
            masks_of[free[found[0]]].append(name)
    several = [f"{name}: {', '.join(each)}" for name, each in masks_of.items() if len(each) > 1]
    paired = {name: each[0] for name, each in masks_of.items() if len(each) == 1}
    masks.update({name: masks.pop(other) for name, other in paired.items()})
    shown = first_few([f"{name} and {other}" for name, other in paired.items()], 3)
    notes = [f"paired, though names differ in case or folders: {counted(len(paired), 'pair')} ({shown})"]
    advice = "name the folder of one kind of mask in dataset.yaml: masks: FOLDER; or join the masks of each image"
    return notes if paired else [], problem("images with several masks", several, "error", advice)


def _find_masks(description: Description, homes: dict[str, Path]) -> dict[str, Path]:
    """The folders of the masks, or their COCO files (see `find_places`). Annotations may be beside the images."""
    root, is_given = description.root, "masks" in description.model_fields_set
    tried = [description.masks] if is_given else list(MASK_PLACES)
    found = {name: places for name in tried if (places := find_places(root, name))}
    usable = [name for name, places in found.items() if _any_below(places, (*MASKS, ".json"))]
    if not is_given:
        in_root = {name: path for name, path in find_places(root, "*.json").items() if path.name not in MASK_PLACES}
        name = next(iter(in_root.values())).name if len(in_root) == 1 else "*.json"  # of Label Studio: result.json
        beside = {description.images: homes, name: in_root}
        beside = {name: places for name, places in beside.items() if _any_below(places, (".json",))}
        usable += [name for name, places in beside.items() if _annotated(places)]
        found |= beside
    if len(usable) > 1:
        ask_which(root, [{"masks": name} for name in usable])
    if found:
        return found[usable[0]] if usable else next(iter(found.values()))
    raise DataError(
        f"no masks in {root}: looked for {', '.join(tried)}\n  found: {list_found(root)}"
        + (unread_annotations([root]) or "\n  → name the folder or the COCO file in dataset.yaml: masks: NAME")
    )


def _annotated(places: dict[str, Path]) -> bool:
    """Whether there are annotations of a known tool among the JSON files."""
    return any(map(form_of, islice(chain.from_iterable(files_below(p, (".json",)) for p in places.values()), 20)))


def _any_below(places: Files, suffixes: tuple[str, ...]) -> bool:
    return any(any(files_below(place, suffixes)) for place in places.values())


def _read_coco_files(paths: Files, images: Files, is_guess: bool) -> tuple[list[CocoFile], list[str]] | None:
    """(the COCO files of objects, why each other COCO file is left out).

    None if there are none, or if the files belong to an image each. is_guess: whether dataset.yaml does not name them.
    """
    own = (paths[name] for name in sorted(images.keys() & paths.keys()))
    forms = (form for form in map(form_of, own) if form is not None)  # what cannot be read is reported later
    if images.keys() & paths.keys() and next(forms, "") != "COCO":
        return None
    must_be = not is_guess and len(paths) == 1
    contents = {path: content for path in paths.values() if is_coco(content := read_json(path)) or must_be}
    return object_files(contents) if contents else None


def _from_coco(description: Description, files: list[CocoFile], left_out: list[str], images: NamedFiles) -> FolderScan:
    match = match_images(files, images.files)
    samples = [Sample(n, images.files[n], match.entries[n][0][0].path) for n in sorted(match.entries)]
    faults = [f"{file.path.name}: {fault}" for file in files for fault in file.faults]
    found = ((file, number, len(each)) for file in files for number, each in file.annotations.items())
    orphans = [f"{file.path.name}: {n} of image {number!r}" for file, number, n in found if number not in file.images]
    advice = "write the folder into file_name, such as val2017/a.jpg"
    which = "in dataset.yaml, name the file to use, masks: FILE; or leave out each image in all files but one"
    left_out += [f"{name} (repeats {counted(number, 'image')})" for name, number in match.repeated.items()]
    problems = [
        *problem(SAME_NAME, images.duplicates),
        *problem("COCO files that contradict themselves", faults),
        *problem("annotations of images that are not listed", orphans, "warning"),
        *problem("file_name that means several images", match.ambiguous, "error", advice),
        *problem("images that are listed twice: their objects are joined", match.joined, "warning"),
        *problem("images with other objects, or another split, in another COCO file", match.differing, "error", which),
    ]
    groups = sorted(set().union(*(file.groups for file in files)))
    notes = [f"COCO files left out: {first_few(left_out)}"] if left_out else []
    notes += [f"categories left out, without objects and above others: {first_few(groups)}"] if groups else []
    return FolderScan(
        coco_format(match, files, description.line_width),
        samples,
        sorted(images.files.keys() - match.entries.keys()),
        match.without_image,
        match.roles(),
        problems,
        notes,
    )


def _from_pairs(description: Description) -> FolderScan:
    """The pairs that tables or lists name."""
    root = description.root
    rows = [row for name in description.pairs for row in _pairs_in(description.require("pairs", name))]
    column = description.group if description.group and any(description.group in row for row in rows) else "group"
    samples: dict[str, Sample] = {}
    images_of: dict[Path, list[str]] = defaultdict(list)
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
            images_of[mask.resolve()].append(name)
            if row.get("split"):
                split_of[name] = row["split"]
        elif (samples[name].image, samples[name].mask) != (image, mask):
            duplicates.append(f"{name} with {_below(root, samples[name].mask)} and {_below(root, mask)}")
    if not samples:
        found = f"{', '.join(description.pairs)} exists: {first_few(missing) or 'no rows'}"
        raise DataError(f"no pair in {found}\n  → write paths relative to {root}")
    shared = [f"{_below(root, samples[n[0]].mask)}: {', '.join(n)}" for n in images_of.values() if len(n) > 1]
    problems = [
        *problem(f"files of {', '.join(description.pairs)} that are missing", missing),
        *problem("images with two masks, or two files of one name", duplicates),
        *problem("masks of several images", shared, "warning"),
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
    candidates = (home / end for end in [text, *path_ends(text)] if end for home in homes)
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
        found = f"{counted(len(unmatched), 'name')} ({first_few(unmatched, 3)})"
        scan.notes.append(f"group: without a match: {found}; each forms its own group")
