"""Files of the user's folder, by the names that an image and its mask share."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from segstudy.data.folder.names import IMAGES
from segstudy.data.images import image_name
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
            chosen = [there for there, part in zip(found, parts, strict=True) if WILDCARDS & set(part)]
            places["/".join(chosen)] = path
    return places


def files_in(places: Mapping[str, Path], suffixes: Sequence[str], ending: str = "") -> NamedFiles:
    """The files below folders (see `find_places`), or these files themselves; only those with names with this ending.

    The ending is no part of the name: with `_0000`, `case1_0000.png` is `case1`. Hidden files are left out.
    Raises DataError for links to files that do not exist.
    """
    named, broken = NamedFiles(), []
    first: dict[str, PurePath] = {}
    for prefix, place in places.items():
        for path in sorted(_files_below(place)) if place.is_dir() else [place]:
            below = PurePath(prefix, path.relative_to(place)) if place.is_dir() else PurePath(prefix or path.name)
            name = image_name(str(below))
            if path.suffix.lower() == ".json" and name.lower().endswith(IMAGES):
                name = image_name(name)  # a.jpg.json
            if path.suffix.lower() not in suffixes:
                continue
            if not path.is_file():
                broken += [] if path.exists() else [f"{below}"]
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


def _files_below(home: Path) -> Iterator[Path]:
    """The files below a folder and in linked folders, without hidden ones. Each folder is visited once."""
    visited = set()
    for folder, folders, names in os.walk(home, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if real not in visited and not name.startswith("."))
        visited.add(real)


def suffixes_in(places: Mapping[str, Path]) -> list[str]:
    """The suffixes of the files below folders, with their numbers: "12 .txt"."""
    paths = (path for place in places.values() for path in place.rglob("*") if path.is_file())
    return [f"{count} {suffix or 'without suffix'}" for suffix, count in Counter(p.suffix for p in paths).most_common()]
