"""Which image is meant by a text in a list, a table or an annotation file: each tool writes names in its own way."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePath

from segstudy.data.images import image_name
from segstudy.data.text import read_json, read_rows, read_text
from segstudy.errors import DataError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")  # suffixes of images
LISTS = (".txt", ".csv", ".lst")  # suffixes of lists of images
SPLIT_WORDS = {"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
"""Words in the names of files and folders, and the split that they mean."""

_FILE_ENDS = re.compile(rf"({'|'.join(map(re.escape, (*IMAGES, '.gif')))})(?=[\s,;\"']|$)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[\s,;]+")


def role_of(word: str) -> str:
    """The split that a word such as val2017 means, or ""."""
    return SPLIT_WORDS.get(word.lower().rstrip("0123456789"), "")


def role_of_list(path: PurePath) -> str:
    """The split that a word in the name of a text file means, such as val_list.txt; "" for tables of classes."""
    if path.suffix.lower() not in LISTS or re.search("class|label", path.stem, re.IGNORECASE):
        return ""
    return next(filter(None, map(role_of, re.split(r"[^A-Za-z0-9]+", path.stem))), "")


def path_ends(text: str) -> list[str]:
    """A path as it may be written, with / between its parts, and its ends without the first folders, longest first.

    Quotes, surrounding blanks, `.`, `..` and empty parts are dropped: `C:\\set\\images\\a.jpg` gives
    `C:/set/images/a.jpg`, `set/images/a.jpg`, `images/a.jpg`, `a.jpg`.
    """
    plain = unicodedata.normalize("NFC", text).strip().strip("\"'").replace("\\", "/")
    parts = [part for part in map(str.strip, plain.split("/")) if part not in ("", ".", "..")]
    return ["/".join(parts[i:]) for i in range(len(parts))]


class ImageNames:
    """Finds the image that a text means: its name, its file, or a path on any machine that ends with its name.

    names: those of `image_name`. A name without the first folders is enough where it is unique.
    """

    def __init__(self, names: Iterable[str]):
        self._names: dict[str, str] = {}
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in names:
            whole, *ends = path_ends(name) or [name]
            self._names[whole] = name
            for end in ends:
                self._by_end[end].append(name)

    def find(self, text: str) -> list[str]:
        """The image that a text means: one name; none if it is unknown; several if it may mean each of them.

        The text must end with the name, or the name with the text: `val/a` never means `train/a`.
        """
        whole, *ends = path_ends(text) or [""]
        for each in (whole, _without_suffix(whole)):
            if each in self._names:
                return [self._names[each]]
            if each in self._by_end:
                return list(self._by_end[each])
        known = (each for end in ends for each in (end, _without_suffix(end)) if each in self._names)
        return [self._names[each] for each in known][:1]

    def find_in_line(self, line: str) -> list[str]:
        """As `find`, for a line of a list, in which a mask or labels may follow the image: `images/a.jpg masks/a.png`.

        Names may contain blanks and commas.
        """
        for text in [*columns(line)[:1], line, *_shorter(line)]:
            found = self.find(text)
            in_one_column = not _SEPARATOR.search(text.replace("\\", "/").rpartition("/")[0])
            if found and (in_one_column or found[0] in (text, _without_suffix(text)) or text in columns(line)):
                return found
        return []


def splits_in(path: Path, known: ImageNames) -> dict[str, list[str]]:
    """{split: images} of a table with a column of splits and one of images, or of a JSON file of lists; else {}."""
    found: dict[str, list[str]] = defaultdict(list)
    if path.suffix.lower() == ".json":
        content = read_json(path)
        for key, names in content.items() if isinstance(content, dict) else ():
            if role_of(key) and isinstance(names, list) and any(known.find(str(name)) for name in names[:5]):
                found[role_of(key)] += map(str, names)
        return found
    rows = read_rows(path) if path.suffix.lower() == ".csv" else []
    splits = next((column for column in rows[0] if all(role_of(row[column]) for row in rows)), "") if rows else ""
    images = [column for column in rows[0] if any(known.find(row[column]) for row in rows[:5])] if splits else []
    for row in rows if images else ():
        found[role_of(row[splits])].append(row[images[0]])
    return found


def roles_in(path: Path, known: ImageNames) -> list[str]:
    """The splits of which a file lists images; [""] for images of no split; [] if it names none, or cannot be read.

    One of its first lines must name an image; with a suffix, if the name of the file holds no split.
    """
    with suppress(DataError):
        if splits := splits_in(path, known):
            return list(splits)
        lines = [] if path.suffix.lower() == ".json" else read_text(path).splitlines()[:5]
        role = role_of_list(path)
        return [role] if any(known.find_in_line(line) and (role or columns(line)) for line in lines) else []
    return []


def agree(one: str, other: str) -> bool:
    """Whether two lines of lists may mean the same file: their paths are equal, or one is the end of the other."""
    a, b = (f"/{_first_path(line)}" for line in (one, other))
    return a.endswith(b) or b.endswith(a)


def _first_path(line: str) -> str:
    text = next(iter(columns(line) or _SEPARATOR.split(line.strip())))
    return _without_suffix(next(iter(path_ends(text)), ""))


def columns(line: str) -> list[str]:
    """The files that a line names, such as an image and its mask; [] for a line without suffixes."""
    ends = [match.end() for match in _FILE_ENDS.finditer(line)]
    return [line[a:b].strip(" \t,;\"'") for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def _shorter(line: str) -> list[str]:
    """The line without its last word, its last two, …; [] for a line with suffixes."""
    ends = [match.start() for match in _SEPARATOR.finditer(line.strip())]
    return [] if columns(line) else [line.strip()[:end] for end in reversed(ends)]


def _without_suffix(path: str) -> str:
    return image_name(path) if path.lower().endswith((*IMAGES, ".gif")) else path
