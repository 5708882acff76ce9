"""`segstudy data`: show a data set, or check your own images and masks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from segstudy.cli.arguments import BEFORE, PICTURES, config_of, output
from segstudy.console import console, print_line
from segstudy.formatting import counted

SHOWN_IN_FULL = 40
"""With more classes, the table leaves out those without a pixel."""


class DataCommands(typer.core.TyperGroup):
    """`segstudy data NAME` is short for `segstudy data show NAME`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(context, args)


app = typer.Typer()
data_app = typer.Typer(
    cls=DataCommands,
    no_args_is_help=True,
    help="Show a data set (segstudy data voc --root photos), or check your own (segstudy data check photos).",
)
app.add_typer(data_app, name="data", rich_help_panel=BEFORE)


@data_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A file of conf/data: voc, scenes, …")],
    root: Annotated[Path | None, typer.Option(help="The folder of the data set (data.root).")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Further settings: data.size=128 …")] = None,
    crops: Annotated[
        bool, typer.Option("--crops", help="Draw 16 augmented training images, as the network sees them.")
    ] = False,
    out: Annotated[Path, typer.Option(callback=output(*PICTURES), help="Picture file to write.")] = Path("data.png"),
) -> None:
    """Show a data set: its classes, their images and pixels, and a picture of sample images with their masks.

    Example: segstudy data voc --root photos data.train=trainaug
    As random windows: segstudy data voc --root photos --crops data.fit=crop data.size=512
    """
    from segstudy.build import build_data, unprepared_data
    from segstudy.config.overrides import quote
    from segstudy.data.folder.datamodule import Folder
    from segstudy.data.folder.split import UntrainableError

    place = [f"data.root={quote(str(root))}"] if root else []
    cfg = config_of([f"data={name}", "data.batch_size=1", *place, *(overrides or [])])
    try:
        dataset = build_data(cfg)
    except UntrainableError as error:
        print_line(str(error), "yellow")
        dataset = unprepared_data(cfg)
        assert isinstance(dataset, Folder)  # the only data that raises it
        dataset.setup_to_look()
    for role, images in dataset.roles.items():
        print_line(f"{role}: {counted(len(images), 'image')}, list {images.name!r}, fingerprint {images.key}")
        for line in images.notes:
            print_line(f"  {line}", "yellow")
    pixels = {role: images.pixels for role, images in dataset.roles.items()}
    console.print(class_table(dataset, pixels, f"{name}, {dataset.fit}"))
    (draw_crops if crops else draw_samples)(dataset, out)
    print_line(f"picture: {out}")


def class_table(data: Any, pixels: Mapping[str, Any], title: str = "") -> Table:
    """For each class, the number of images that contain it, and its share of the counted pixels.

    data: has `classes` and `palette`. pixels: role → pixel counts (images, classes).
    """
    title = f"{title}: " * bool(title) + "images with the class, share of counted pixels"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("class", overflow="fold", min_width=min(20, max(map(len, data.classes))))
    for role in pixels:
        table.add_column(f"{role}\nimages", justify="right", no_wrap=True)
        table.add_column(f"{role}\npixels", justify="right", no_wrap=True)
    occurs = sum(counts.sum(0) for counts in pixels.values()) > 0
    for c, label in enumerate(data.classes):
        if len(data.classes) > SHOWN_IN_FULL and not occurs[c]:
            continue
        cells = [
            cell
            for counts in pixels.values()
            for cell in (str((counts[:, c] > 0).sum()), f"{counts[:, c].sum() / max(1, counts.sum()):.2%}")
        ]
        table.add_row(f"[rgb({','.join(map(str, data.palette[c]))})]■[/] {c}", escape(label), *cells)
    if len(data.classes) > SHOWN_IN_FULL and not occurs.all():
        table.caption = f"not shown: {(~occurs).sum()} classes without a pixel"
    return table


def draw_samples(dataset: Any, out: Path) -> None:
    """Draw up to twelve training images beside their masks."""
    from segstudy.callbacks.pictures import fixed_samples
    from segstudy.drawing import class_legend, colorize, image_grid, photo_of, save
    from segstudy.labels import reduced_labels, reduction

    fit = dataset.roles["fit"]
    pairs, masks = [], []
    for i in fixed_samples(fit, min(12, len(fit)), dataset.background):
        image, mask = fit.pair(i)
        factor = reduction(mask.shape, 512)
        masks.append(reduced_labels(mask, factor))
        pairs += [photo_of(image, factor), colorize(masks[-1], dataset.palette)]
    rows = [pairs[i : i + 6] for i in range(0, len(pairs) - len(pairs) % 6, 6)] or [pairs]
    titles = ("image", "mask") * (len(rows[0]) // 2)
    save(image_grid(rows, titles, class_legend(masks, dataset.classes, dataset.palette)), out)


def draw_crops(dataset: Any, out: Path, count: int = 16) -> None:
    """Draw augmented training images of the first epoch beside their masks."""
    from segstudy.drawing import class_legend, colorize, image_grid, photo_of, save

    dataset.batch_size = min(count, len(dataset.roles["fit"]))
    batch = dataset.on_after_batch_transfer(next(iter(dataset.train_dataloader())), 0)
    images = (batch["image"] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    masks = list(batch["mask"].byte().numpy())
    pairs = [p for i, m in zip(images, masks, strict=True) for p in (photo_of(i), colorize(m, dataset.palette))]
    rows = [pairs[i : i + 8] for i in range(0, len(pairs) - len(pairs) % 8, 8)] or [pairs]
    titles = ("image", "mask") * (len(rows[0]) // 2)
    save(image_grid(rows, titles, class_legend(masks, dataset.classes, dataset.palette)), out)


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(help="A folder with images and masks (data=folder)")],
    about: Annotated[
        Path | None, typer.Option(help="Its description (data.about), if not FOLDER/dataset.yaml.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="How images are read: data.channels=5 data.value_range=[0,10000]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for scripts.")] = False,
) -> None:
    """List all problems of your own images and masks, and propose a dataset.yaml if there is none.

    Exit code: 0 no problems, 1 training is impossible, 3 training is possible, but read the warnings.
    Example: segstudy data check photos
    With more than three channels, or more than 8 bits: segstudy data check fields data.channels=5
    """
    from segstudy.data.bands import Bands
    from segstudy.data.folder.check import check_folder

    cfg = config_of(["data=folder", "data.root=unopened", *(settings or [])])
    report = check_folder(folder.expanduser(), about, Bands.of(cfg.data))
    if as_json:
        print(json.dumps(report.values(), indent=2, ensure_ascii=False))
    else:
        _print_report(report, folder)
    if report.problems:
        raise typer.Exit(3 if report.trainable else 1)


def _print_report(report: Any, folder: Path) -> None:
    for line in report.notes:
        print_line(line)
    if report.label_map is not None and report.counts:
        console.print(class_table(report.label_map, report.counts))
    for problem in sorted(report.problems, key=lambda f: f.severity):
        color = "red" if problem.severity == "error" else "yellow"
        console.print(f"[{color}]{problem.severity}[/]: ", end="")
        print_line(str(problem))
    if report.trainable:
        guessed = f"; guessed: {', '.join(report.guessed)}" if report.guessed else ""
        print_line(("training is possible; read the warnings" if report.problems else "no problems found") + guessed)
    else:
        errors = sum(p.severity == "error" for p in report.problems)
        print_line(f"training is not possible: mend {'the error' if errors == 1 else f'the {errors} errors'} above")
    if report.proposed_yaml:
        print_line(f"\nproposed {folder / 'dataset.yaml'} (edit the names and save it there):")
        print_line(report.proposed_yaml)
