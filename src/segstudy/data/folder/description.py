"""dataset.yaml: the description of the user's folder."""

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from segstudy.data.folder.declared_classes import DeclaredClasses, read_class_file
from segstudy.data.folder.layouts import CLASS_TABLES, Layout, find_layout
from segstudy.data.folder.mask_format import BACKGROUND
from segstudy.data.text import read_text
from segstudy.errors import ConfigError, DataError, did_you_mean
from segstudy.files import check_yaml

Channel = Annotated[int, Field(ge=0, le=255, strict=False)]  # 1.0 is 1
Color = Annotated[list[Channel], Field(min_length=3, max_length=3)]
Name = str | int | float
Share = Annotated[float, Field(gt=0, lt=1)]
CLASS_FILES = ("classes.csv", "classes.txt", "class_names.txt", *CLASS_TABLES)
"""Files of classes that are read without being named."""

PATH = "a path in the folder"
PART = "a list, a sub-folder, or a share between 0 and 1 such as 0.2"


class Description(BaseModel):
    """The keys of dataset.yaml. What it does not say is guessed from the files and printed.

    The description of a key completes the error message "VALUE is not …".
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    # a file: CSV of index,name,red,green,blue, or a name per line
    classes: list[Name] | dict[int, Name] | str | None = Field(
        None, description="a list of names, {number: name} with numbers as keys, or a file's name"
    )
    palette: list[Color] | None = Field(None, description="a list of [red, green, blue] in 0…255, one of each class")
    labels: dict = Field({}, description="{value, colour or label in the masks: class, its number, 255 or ignore}")
    ignore: list[str | int] = Field([], description="a list of classes or values, which become 255")
    background: Any = Field(BACKGROUND, description="a class or its number, or null")  # the default need not exist
    images: str = Field("images", description=PATH)  # a folder; with * for several: "*/images"
    # a folder of pictures, LabelMe, Supervisely or COCO files, or a COCO file; with * for several
    masks: str = Field("masks", description=PATH)
    # the ends of names before the suffix, without which an image and its mask have equal names
    image_suffix: str = Field("", description="the end of the images' names, such as _0000")
    mask_suffix: str = Field("", description="the end of the masks' names, such as _mask")
    # the classes in pictures; None: detected. In indexed ones, numbers are the indices, grey the grey values
    mask_values: Literal["numbers", "colours", "grey"] | None = Field(None, description="numbers, colours or grey")
    # of annotated lines and points, in pixels
    line_width: float | None = Field(None, ge=1, description="a width in pixels of at least 1")
    # CSV files with the columns image, mask, optionally split and group; or lists with an image and a mask in each line
    pairs: list[str] = Field([], description="a CSV or list, or several: [train.txt, val.txt]")
    train: str | None = Field(None, description="a list file, a sub-folder of the images, or a value of column split")
    val: str | Share | None = Field(None, description=PART)
    test: str | Share | None = Field(None, description=PART)
    folds: int | None = Field(None, ge=2, description="a number of at least 2")
    split_seed: int = Field(0, description="a number")
    # the matched part of an image's name is its group
    group: str | None = Field(None, description="a regular expression or a column of pairs")

    _places: list[Path] = PrivateAttr(default_factory=list)
    _layout: Layout | None = PrivateAttr(None)

    @field_validator("ignore", "pairs", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int) else value

    @property
    def root(self) -> Path:
        """The folder that is described."""
        return self._places[0]

    @property
    def layout(self) -> Layout | None:
        """The recognised layout, of which the keys are in use; None if dataset.yaml names the files."""
        return self._layout

    @cached_property
    def declared(self) -> DeclaredClasses:
        """The classes of `classes` and `palette`. Raises ConfigError if they contradict each other."""
        if self.classes is None:
            if self.palette is not None:
                raise ConfigError("palette: there are no classes that could have these colours\n  → classes: [NAME, …]")
            return DeclaredClasses()
        if isinstance(self.classes, str):
            declared = read_class_file(self.require("classes", self.classes))
        else:
            given = self.classes if isinstance(self.classes, dict) else dict(enumerate(self.classes))
            declared = DeclaredClasses({str(k): str(v).strip() for k, v in sorted(given.items()) if str(v).strip()})
        names = list(declared.names.values())
        if not names:
            raise ConfigError(f"classes: {self.classes} names no class")
        if duplicates := sorted({n for n in names if names.count(n) > 1}):
            twice = f"{', '.join(duplicates)} is listed twice"
            raise ConfigError(f"classes: {twice}\n  → for several values of a class, labels: {{7: CLASS}}")
        if self.palette is None:
            return declared
        if len(self.palette) != len(names):
            wanted = f"{len(names)} colours [red, green, blue]"
            raise ConfigError(f"palette: {len(names)} classes need {wanted}, not {self.palette}")
        return replace(declared, colours={n: (r, g, b) for n, (r, g, b) in zip(names, self.palette, strict=True)})

    @property
    def declares_classes(self) -> bool:
        """Whether it says which values, colours or labels are classes."""
        return bool(self.declared.names or self.labels)

    def declared_keys(self) -> tuple[dict[str, str], dict[str, str]]:
        """({number: class}, {key of a colour: class}), also of `labels`."""
        labels = {str(key): str(name) for key, name in self.labels.items()}
        colours = {key: name for key, name in labels.items() if "," in key}
        numbers = {key: name for key, name in labels.items() if "," not in key}
        return self.declared.names | numbers, self.declared.by_colour | colours

    def find(self, name: str) -> Path | None:
        """A file named in dataset.yaml: in the root, or beside dataset.yaml; None if missing."""
        return next((place / name for place in self._places if (place / name).is_file()), None)

    def require(self, key: str, name: str) -> Path:
        """As `find`, but raises DataError that names the key if there is no such file."""
        if path := self.find(name):
            return path
        raise DataError(f"{key}: no file {name} in {' or '.join(map(str, dict.fromkeys(self._places)))}")


def read_description(root: Path, about: Path | None = None) -> tuple[Description, Path | None]:
    """(the description of a folder, the file that it was read from): `about` or ROOT/dataset.yaml; None if missing.

    Raises DataError if `about` does not exist, and ConfigError that lists all mistakes in the file.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}\n  → name the folder with your images and masks (in training: data.root)")
    if about is not None and not about.is_file():
        raise DataError(f"no file {about}\n  → name the YAML file of the folder (--about; in training: data.about)")
    found = [root / name for name in ("dataset.yaml", "dataset.yml") if os.path.lexists(root / name)]
    if not about and len(found) > 1:
        raise DataError(f"{root} has both dataset.yaml and dataset.yml\n  → remove one of them")
    file = about or next(iter(found), None)
    if file and not file.is_file():
        what = "a folder" if file.is_dir() else "a link to a file that does not exist"
        raise DataError(f"{file} is {what}, not a description\n  → rename or remove it")
    given = _read_yaml(file) if file else {}
    names_classes = bool(given.keys() & {"classes", "labels"})
    layout = None if given.keys() & {"images", "masks", "pairs"} else find_layout(root, not names_classes)
    given = (layout.keys if layout else {}) | given
    if not given.keys() & {"classes", "labels"}:
        given["classes"] = next((n for n in CLASS_FILES if (root / n).is_file()), None)
    try:
        description = Description.model_validate(given)
    except ValidationError as error:
        keys = dict.fromkeys(str(each["loc"][0]) for each in error.errors())
        mistakes = [_mistake(key, given[key]) for key in keys]
        raise ConfigError(f"{file or root}:\n  " + "\n  ".join(mistakes) + f"\n  {KNOWN_KEYS}") from error
    description._places, description._layout = [root, file.parent if file else root], layout
    return description, file


class _Loader(yaml.SafeLoader):
    """YAML in which booleans and dates are text, and a key cannot occur twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {  # no, yes, on, off and true may be classes
    first: [(tag, pattern) for tag, pattern in pairs if tag.split(":")[-1] not in ("bool", "timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(file: Path) -> dict[str, Any]:
    """The keys and values in a YAML file; null is left out where it means the default."""
    try:
        given = yaml.load(check_yaml(read_text(file)), _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{file} has no keys\n  {KNOWN_KEYS}")
    has_default = Description.model_fields.keys() - {"background"}
    return {str(k): v for k, v in given.items() if v is not None or k not in has_default}


def _mistake(key: str, value: Any) -> str:
    field = Description.model_fields.get(key)
    if field is None:
        return f"unknown key {key!r}{did_you_mean(key, list(Description.model_fields))}"
    return f"{key}: {value!r} is not {field.description}"


KNOWN_KEYS = f"known keys: {', '.join(Description.model_fields)}"
