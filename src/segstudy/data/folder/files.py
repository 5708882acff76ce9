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

    The ending is no part of the name: with `_0000`, `case1_0000.png` is `case1`.
    """
    named = NamedFiles()
    for prefix, place in places.items():
        if place.is_dir():
            found, duplicates = files_by_name(place, suffixes)
            named.duplicates += [f"{prefix}: {line}" if prefix else line for line in duplicates]
            found = {f"{prefix}/{name}" if prefix else name: path for name, path in found.items()}
        else:
            found = {image_name(prefix) if prefix else place.stem: place} if place.suffix.lower() in suffixes else {}
        named.files |= {name.removesuffix(ending): path for name, path in found.items() if name.endswith(ending)}
        named.others += [path.name for name, path in found.items() if not name.endswith(ending)]
    return named


def files_by_name(home: Path, suffixes: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """({name: file} below a folder, without hidden ones; a line for each further file of the same name).

    Raises DataError for links to files that do not exist.
    """
    files: dict[str, Path] = {}
    duplicates = []
    paths = [path for path in sorted(_files_below(home)) if path.suffix.lower() in suffixes]
    if broken := [str(path.relative_to(home)) for path in paths if not path.exists()]:
        raise DataError(f"{home} has links to files that do not exist: {first_few(broken)}\n  → mend or remove them")
    for path in filter(Path.is_file, paths):
        below = path.relative_to(home)
        name = image_name(below)
        if path.suffix.lower() == ".json" and name.lower().endswith(IMAGES):
            name = image_name(name)  # a.jpg.json
        if name in files:
            duplicates.append(f"{files[name].relative_to(home)} and {below}")
        else:
            files[name] = path
    return files, duplicates


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


def is_hidden(path: PurePath) -> bool:
    """Whether a relative path has a part that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)
