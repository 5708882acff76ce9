"""Files of the user's folder, by the names that an image and its mask share."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from segstudy.data.folder.names import IMAGES
from segstudy.errors import DataError, first_few

WILDCARDS = frozenset("*?[")


@dataclass
class NamedFiles:
    """Files by name. duplicates: a line for each further file of a name. others: files without the wanted ending."""

    files: dict[str, Path] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def find_places(root: Path, pattern: str) -> dict[str, Path]:
    """The folders or files of a path with or without wildcards: {what the parts with wildcards stand for: path}.

    `*/images` finds `a/images` as "a": its images have names such as `a/x`. {} if there are none.
    """
    if (root / pattern).exists():
        return {"": root / pattern}
    parts = PurePath(pattern).parts
    if not any(WILDCARDS & set(part) for part in parts) or PurePath(pattern).is_absolute():
        return {}
    places = {}
    for path in sorted(root.glob(pattern)):
        found = path.relative_to(root).parts
        if "**" not in parts and not any(part.startswith(".") for part in found):
            pairs = zip(found, parts, strict=True)
            chosen = [stands_for(there, part) for there, part in pairs if WILDCARDS & set(part)]
            if path.is_file() and WILDCARDS & set(parts[-1]):  # of `*.jpg`, the name
                chosen[-1] = stands_for(path.stem, PurePath(parts[-1]).stem) + path.suffix
            places["/".join(chosen)] = path
    return places


def stands_for(part: str, pattern: str) -> str:
    """What stands for the wildcards: "train" in train_masks for *_masks."""
    before, after = re.split(r"[*?\[].*[*?\]]|[*?]", pattern, maxsplit=1)
    return part[len(before) : len(part) - len(after)]


def shared_name(file: str) -> str:
    """The name that an image and its mask share: d/a for d/a.jpg, d/a.png and d/a.jpg.json (see `image_name`)."""
    name, suffix = os.path.splitext(file)
    is_json = suffix.lower() == ".json" and name.lower().endswith(IMAGES)
    return unicodedata.normalize("NFC", os.path.splitext(name)[0] if is_json else name)


def files_in(places: Mapping[str, Path], suffixes: tuple[str, ...], ending: str = "") -> NamedFiles:
    """The files below folders (see `find_places`), or these files themselves; only those with names with this ending.

    The ending is no part of the name: with `_0000`, `case1_0000.png` is `case1`. Hidden files are left out.
    Raises DataError for links to files that do not exist.
    """
    named, broken = NamedFiles(), []
    first: dict[str, str] = {}
    for prefix, place in places.items():
        for path in files_below(place, suffixes):
            inside = f"{prefix}/{path.as_posix().removeprefix(f'{place.as_posix()}/')}".removeprefix("/")
            below = inside if path != place else prefix or path.name
            name = shared_name(below)
            if not path.is_file():
                broken += [] if path.exists() else [below]
            elif not name.endswith(ending):
                named.others.append(path.name)
            elif (name := name.removesuffix(ending)) in named.files:
                named.duplicates.append(f"{first[name]} and {below}")
            else:
                named.files[name], first[name] = path, below
    if broken:
        folders = first_few([str(place) for place in places.values()], 3)
        raise DataError(f"{folders} has links to files that do not exist: {first_few(broken)}\n  → mend or remove them")
    return named


def files_below(home: Path, suffixes: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """The files below a folder and in linked folders, without hidden ones, each once; or the file itself."""
    if not home.is_dir() and home.suffix.lower() in suffixes:
        yield home
    visited = set()
    for folder, folders, names in os.walk(home, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        here = Path(folder)  # joined faster than two texts
        yield from (here / name for name in names if real not in visited)
        visited.add(real)


def suffixes_in(places: Mapping[str, Path]) -> list[str]:
    """The suffixes of the files below folders, with their numbers: "12 .txt"."""
    paths = (path for place in places.values() for path in place.rglob("*") if path.is_file())
    suffixes = Counter("".join(p.suffixes[-2:]) if p.suffix == ".gz" else p.suffix for p in paths)
    return [f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common()]
