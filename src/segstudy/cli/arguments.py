"""Shared by several commands: settings, run folders, options, and the panels of `segstudy --help`."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from segstudy.errors import ConfigError
from segstudy.files import check_output

BEFORE, USE, COMPARE = "Before training", "Use trained networks", "Compare"
"""Panels of commands in `segstudy --help`."""


def config_of(overrides: list[str]) -> Any:
    """The checked config for settings such as model=v3. Raises ConfigError with every mistake."""
    from segstudy.build import refused_settings
    from segstudy.config.overrides import checked_config
    from segstudy.sweep import plan_mistakes

    return checked_config(overrides, [refused_settings, plan_mistakes])


def runs_and_settings(words: list[str]) -> tuple[list[Path], list[str]]:
    """Split a command's arguments into run folders and settings. A folder's name may contain "="."""
    settings = [word for word in words if "=" in word and not Path(word).is_dir()]
    return [Path(word) for word in words if word not in settings], settings


def output(*suffixes: str, folder: bool = False) -> Callable[..., Any]:
    """Callback of an option that names a file to write (or a folder to write into): what is wrong with it is said
    before the work, see `check_output`."""

    def check(param: typer.CallbackParam, value: Path | None) -> Path | None:
        if value is not None:
            check_output(value, param.opts[0], folder, suffixes)
        return value

    return check


PICTURES = (".png", ".svg", ".pdf", ".jpg")
"""Formats in which a picture can be drawn."""


def refuse_without(option: str, value: Any, other: str) -> None:
    """Raise ConfigError if an option is set that has no effect without another one."""
    if value is not None:
        raise ConfigError(f"{option} {value} has no effect without {other}\n  → add {other}, or leave out {option}")


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a Typer command one option for each field of its last parameter, a dataclass; it receives one object."""
    *own, last = inspect.signature(command, eval_str=True).parameters.values()
    fields = inspect.signature(last.annotation, eval_str=True).parameters

    @functools.wraps(command)
    def call(**given: Any) -> None:
        options = last.annotation(**{name: given.pop(name) for name in fields})
        command(**given, **{last.name: options})

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *fields.values())]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


@dataclass
class ViewOptions:
    """Options for the network's input: size, tiles, test-time augmentation."""

    size: Annotated[
        str,
        typer.Option(
            help="Size of the network's input. train: as in the run's test (data.fit); original: the image's own; N or "
            "HEIGHTxWIDTH: resized to it, or to fit into it if the run keeps the aspect ratio."
        ),
    ] = "train"
    tiles: Annotated[
        int | None,
        typer.Option(
            help="Predict in square tiles of this side, at original size or --size. Default: large images alone, "
            "in tiles of the run's data.tiles.",
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(help="Overlap of neighbouring tiles, 0 to 0.9 of their side; with --tiles.", show_default="0.5"),
    ] = None
    tta: Annotated[
        str | None, typer.Option(help="Test-time augmentation: flip, scale factors, or both: flip,0.75,1")
    ] = None

    def parsed(self) -> tuple[Any, Any]:
        """The test-time augmentation and the tiles, each None if not requested. Raises ConfigError for wrong values."""
        from segstudy.data.fit import parse_size
        from segstudy.inference.tta import TestTimeAugmentation
        from segstudy.tiles import Tiles

        if self.size not in ("train", "original"):
            parse_size(self.size)
        views = TestTimeAugmentation.parse(self.tta) if self.tta is not None else None
        if self.tiles is None:
            refuse_without("--overlap", self.overlap, "--tiles N")
            return views, None
        return views, Tiles(self.tiles, 0.5 if self.overlap is None else self.overlap)
