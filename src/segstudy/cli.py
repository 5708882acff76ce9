"""The `segstudy` command: everything that is not training (and training, for who installed the package alone)."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks under equal conditions, and see which is better.",
)
console = Console()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train one network, or with -m a study. Example: segstudy train -m model=v1,v2,v3,v4",
)
def train(context: typer.Context) -> None:
    from segstudy.train import main as train_main

    sys.argv = ["segstudy train", *context.args]
    train_main()


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="A file of conf/data: voc, scenes, …")],
    root: Annotated[Path | None, typer.Option(help="The folder of the data set (data.root).")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Further settings: data.size=128 …")] = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("data.png"),
) -> None:
    """Show a data set: its classes, how many images and pixels each has, and a grid of pictures with their masks.

    Example: segstudy data voc --root photos data.train=trainaug
    """
    from segstudy.build import build_data
    from segstudy.config import check, check_overrides, compose_config

    given = [f"data={name}", *([f"data.root={root}"] if root else []), *(overrides or [])]
    check_overrides(given)
    cfg = compose_config(given)
    check(cfg)
    dataset = build_data(cfg)
    show(dataset, name, out)


def show(dataset: Any, name: str, out: Path) -> None:
    """Print the table of classes for each role and draw twelve images of `fit`."""
    from segstudy.callbacks.pictures import fixed_samples
    from segstudy.drawing import class_legend, coloured, grid, save

    roles = dataset.roles
    for role, images in roles.items():
        console.print(f"{role}: {len(images)} images, list {images.name!r}, fingerprint {images.key}", highlight=False)
        for line in images.cache.stated:
            console.print(f"  [yellow]{line}", highlight=False)
    table = Table(
        title=f"{name} at {dataset.size[0]}×{dataset.size[1]}: images with the class, share of counted pixels"
    )
    for column in ("", "class", *(f"{role} {what}" for role in roles for what in ("images", "pixels"))):
        table.add_column(column, justify="left" if column == "class" else "right")
    for c, label in enumerate(dataset.classes):
        cells = [
            cell
            for images in roles.values()
            for cell in (str((images.pixels[:, c] > 0).sum()), f"{images.pixels[:, c].sum() / images.pixels.sum():.2%}")
        ]
        rgb = ",".join(map(str, dataset.palette[c]))
        table.add_row(f"[rgb({rgb})]■[/] {c}", label, *cells)
    console.print(table)
    fit = roles["fit"]
    batch = fit.__getitems__(fixed_samples(fit, min(12, len(fit)), dataset.background))
    pictures = [image.numpy() for image in batch["image"]]
    masks = [mask.numpy() for mask in batch["mask"]]
    pairs = [p for image, mask in zip(pictures, masks, strict=True) for p in (image, coloured(mask, dataset.palette))]
    rows = [pairs[i : i + 6] for i in range(0, len(pairs) - len(pairs) % 6, 6)] or [pairs]
    titles = ("image", "mask") * (len(rows[0]) // 2)
    save(grid(rows, titles, class_legend(masks, dataset.classes, dataset.palette)), out)
    console.print(f"picture: {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A study: a folder of runs, e.g. runs/ablation-scenes")],
) -> None:
    """Print the table of all runs of a study and write its gallery. Exit code 1 if a run is not done."""
    from segstudy.errors import DataError
    from segstudy.study.gallery import write_gallery
    from segstudy.study.table import print_study, records

    if not records(folder):
        found = sorted(p.name for p in folder.iterdir() if p.is_dir())[:8] if folder.is_dir() else "no such folder"
        raise DataError(f"no runs in {folder}\n  expected: {folder}/RUN/record.json\n  found:    {found}")
    unfinished = print_study(folder, console)
    gallery = write_gallery(folder)
    if gallery:
        console.print(f"gallery: {gallery}")
    if unfinished:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: the user's mistakes are printed plainly, with exit code 2."""
    from segstudy.errors import SegstudyError

    try:
        app()
    except SegstudyError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/]", end=" ")
        print(error, file=sys.stderr)
        sys.exit(2)
