"""The `segstudy` command: everything that is not training (and training, for who installed the package alone)."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table

from segstudy.cli import study, use

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks under equal conditions, and see which is better.",
)

console = Console()

TRAIN, LOOK = "Train", "Look before training"


@app.command(
    rich_help_panel=TRAIN,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train one network, or with -m a study. Example: segstudy train -m model=v1,v2,v3,v4",
)
def train(context: typer.Context) -> None:
    from segstudy.train import main as train_main

    sys.argv = ["segstudy train", *context.args]
    # Lightning starts further processes as the module that this one is said to be.
    sys.modules["__main__"].__spec__ = find_spec("segstudy.entry")
    train_main()


class DataCommands(typer.core.TyperGroup):
    """`segstudy data NAME` is short for `segstudy data show NAME`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["show", *args]
        return super().parse_args(context, args)


data_app = typer.Typer(
    cls=DataCommands,
    no_args_is_help=True,
    help="Look at a data set (segstudy data voc --root photos), or check your own (segstudy data check photos).",
)

app.add_typer(data_app, name="data", rich_help_panel=LOOK)


@data_app.command("show")
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
    from segstudy.config.check import check, check_overrides
    from segstudy.config.compose import compose_config

    given = [f"data={name}", *([f"data.root={root}"] if root else []), *(overrides or [])]
    cfg = compose_config(check_overrides(given))
    check(cfg)
    dataset = build_data(cfg)
    show(dataset, name, out)


def show(dataset: Any, name: str, out: Path) -> None:
    """Print the table of classes for each role and draw twelve images of `fit`."""
    import numpy as np

    from segstudy.callbacks.pictures import fixed_samples
    from segstudy.drawing import class_legend, colorize, image_grid, save

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
    there = np.sum([images.pixels.sum(0) for images in roles.values()], axis=0) > 0
    for c, label in enumerate(dataset.classes):
        if len(there) > 40 and not there[c]:  # a table of 150 rows hides what is there
            continue
        cells = [
            cell
            for images in roles.values()
            for cell in (str((images.pixels[:, c] > 0).sum()), f"{images.pixels[:, c].sum() / images.pixels.sum():.2%}")
        ]
        rgb = ",".join(map(str, dataset.palette[c]))
        table.add_row(f"[rgb({rgb})]■[/] {c}", label, *cells)
    console.print(table)
    if len(there) > 40 and not there.all():
        console.print(f"not shown: {(~there).sum()} classes without a pixel")
    fit = roles["fit"]
    batch = fit.__getitems__(fixed_samples(fit, min(12, len(fit)), dataset.background))
    pictures = [image.numpy() for image in batch["image"]]
    masks = [mask.numpy() for mask in batch["mask"]]
    pairs = [p for image, mask in zip(pictures, masks, strict=True) for p in (image, colorize(mask, dataset.palette))]
    rows = [pairs[i : i + 6] for i in range(0, len(pairs) - len(pairs) % 6, 6)] or [pairs]
    titles = ("image", "mask") * (len(rows[0]) // 2)
    save(image_grid(rows, titles, class_legend(masks, dataset.classes, dataset.palette)), out)
    console.print(f"picture: {out}")


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(help="A folder with images and masks (data=folder)")],
    about: Annotated[
        Path | None, typer.Option(help="Its description (data.about), if not FOLDER/dataset.yaml.")
    ] = None,
) -> None:
    """Tell everything that is wrong with your own images and masks, and propose a dataset.yaml if there is none.

    Exit code 1 if anything makes training impossible.
    """
    from segstudy.data.folder.check import check_folder

    checked = check_folder(folder.expanduser(), about)
    for line in checked.said:
        console.print(line, highlight=False, markup=False)
    if checked.scheme is not None and checked.counts:
        console.print(class_counts(checked.scheme, checked.counts))
    for finding in sorted(checked.findings, key=lambda f: f.severity):
        colour = "red" if finding.severity == "error" else "yellow"
        console.print(f"[{colour}]{finding.severity}[/]: {finding.kind} ({len(finding.items)})", highlight=False)
        more = len(finding.items) - 5
        lines = [*finding.items[:5], *([f"… and {more} more"] if more > 0 else [])]
        for line in [*lines, *([f"→ {finding.advice}"] if finding.advice else [])]:
            console.print("  " + line.replace("\n", "\n  "), highlight=False, markup=False, soft_wrap=True)
    if checked.proposal:
        console.print(f"\nproposed {folder / 'dataset.yaml'} (change the names, and save it there):", highlight=False)
        console.print(checked.proposal, highlight=False, markup=False, soft_wrap=True)
    if not checked.usable:
        raise typer.Exit(1)
    console.print("nothing is wrong" if not checked.findings else "training is possible")


def class_counts(scheme: Any, counts: dict[str, Any]) -> Table:
    """The table of classes: in how many images of each split, and which share of its counted pixels."""
    table = Table(title="images with the class, share of counted pixels")
    for column in ("", "class", *(f"{role} {what}" for role in counts for what in ("images", "pixels"))):
        table.add_column(column, justify="left" if column == "class" else "right")
    for c, label in enumerate(scheme.classes):
        cells = [
            cell
            for pixels in counts.values()
            for cell in (str((pixels[:, c] > 0).sum()), f"{pixels[:, c].sum() / max(1, pixels.sum()):.2%}")
        ]
        table.add_row(f"[rgb({','.join(map(str, scheme.palette[c]))})]■[/] {c}", label, *cells)
    return table


@app.command(rich_help_panel=LOOK)
def network(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 encoder=resnet50 …")] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the image in pixels.")] = 256,
    classes: Annotated[int | None, typer.Option(min=1, help="How many; as many as the data has.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="How deep modules are listed.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Draw it: network.png, .svg or .pdf.")] = None,
) -> None:
    """Show a network: its layers, parameters, GFLOP and receptive fields. No data is opened, no weights are loaded.

    Example: segstudy network model=v3 --classes 21 --out v3.png
    """
    from segstudy.build import build_network
    from segstudy.config.check import check_overrides
    from segstudy.config.compose import apply_overrides, compose_config
    from segstudy.config.targets import locate
    from segstudy.errors import ConfigError

    given = [*(overrides or []), *unopened(overrides or [])]
    cfg = compose_config(check_overrides(given))
    apply_overrides(cfg, given)
    names = getattr(locate(cfg.data._target_), "classes", None)
    if classes is None and names is None:
        raise ConfigError(f"{cfg.data._target_} knows its classes only from its files\n  → --classes N")
    number = classes or len(names or ())
    built, _ = build_network(cfg, number, load_weights=False)
    plain = all(o.startswith(("model=", "data=", "data.")) for o in given)
    name = next((o.removeprefix("model=") for o in reversed(given) if o.startswith("model=")), "v1")
    show_network(built, " ".join(overrides or ["model=v1"]), (size, number, depth), name if plain else None, out)


def unopened(overrides: list[str]) -> list[str]:
    """A stand-in for the settings that a data set must be given before it can be opened."""
    from omegaconf import OmegaConf

    from segstudy.config.paths import CONF

    file = CONF / "data" / f"{next((o[5:] for o in reversed(overrides) if o.startswith('data=')), '')}.yaml"
    if not file.is_file():
        return []
    cfg = OmegaConf.load(file)
    needed = [f"data.{key}" for key in map(str, cfg) if OmegaConf.is_missing(cfg, key)]
    return [f"{key}=unopened" for key in needed if not any(o.startswith(f"{key}=") for o in overrides)]


def show_network(built: Any, title: str, measures: tuple[int, int, int], name: str | None, out: Path | None) -> None:
    """Print the tables of layers and of receptive fields, and draw; measures: size, classes, depth."""
    from segstudy.drawing import save
    from segstudy.errors import ConfigError, first_line
    from segstudy.inspection.diagram import draw
    from segstudy.inspection.receptive_field import receptive_fields
    from segstudy.inspection.summary import PUBLISHED, describe, shape

    size, classes, depth = measures
    try:
        layers = describe(built, size, size)
    except Exception as error:  # networks of one size refuse others, each in its own words
        raise ConfigError(f"the network takes no image of {size}×{size}: {first_line(error)}\n  → --size N") from error
    whole = layers[0]
    totals = f"{whole.parameters:,} parameters, {whole.flop / 1e9:.1f} GFLOP at {size}×{size}, {classes} classes"
    table = Table("layer", "type", title=title)
    for column in ("output", "parameters", "GFLOP"):
        table.add_column(column, justify="right")
    for layer in layers:
        if 0 < layer.depth <= depth:
            indent = "  " * (layer.depth - 1)
            cells = ["×".join(map(str, layer.shape)) if layer.shape else "–", f"{layer.parameters:,}"]
            table.add_row(indent + layer.name, layer.type, *cells, f"{layer.flop / 1e9:.3f}")
    console.print(table)
    fields = Table("map", title="receptive fields of the value in the middle")
    for column in ("channels", "stride", "receptive field", "without global pooling"):
        fields.add_column(column, justify="right")
    for f in receptive_fields(built, (size, size)):
        fields.add_row(f.name, str(f.channels), str(f.stride), f.text(), f"{f.local} px" if f.local else f.text())
    console.print(fields)
    console.print(f"{totals} (one multiplication with its addition is 2 FLOP)", highlight=False)
    if name in PUBLISHED:
        parameters, gflop = PUBLISHED[name]
        console.print(
            f"published for {name}: {parameters:,} parameters, {gflop} GFLOP at 256×256, 21 classes", highlight=False
        )
    if out:
        save(draw(shape(built, size, size), f"{title}: {totals}"), out)
        console.print(f"picture: {out}")


@app.command(rich_help_panel=LOOK)
def inspect(
    what: Annotated[list[str] | None, typer.Argument(help="Settings (model=v3 data=voc …), or a run's folder.")] = None,
) -> None:
    """Show each layer's activations and gradients in the first training batch, and flag what is wrong with them.

    Of settings, the network in its initial state; of a run's folder, with its last weights (settings after it may say
    where things are here: data.root=photos). Example: segstudy inspect model=v3 data.batch_size=4
    """
    import torch

    from segstudy.build import build_module
    from segstudy.inspection.activations import first_batch, inspect_batch, table
    from segstudy.precision import choose_device

    given = what or []
    built, cfg, dataset = opened(given)
    device = torch.device(choose_device(cfg.trainer.accelerator, "32-true")[0])
    module = build_module(cfg, built, dataset).to(device).train()
    rows = inspect_batch(module, first_batch(dataset, device), module.loss)
    flagged = sum(row.flagged for row in rows)
    console.print(table(rows, " ".join(given) or "model=v1"))
    console.print(f"{flagged} of {len(rows)} layers flagged", highlight=False)


def opened(given: list[str]) -> tuple[Any, Any, Any]:
    """Network, config and data set of settings, or of a run's folder and settings of this machine."""
    from segstudy.build import build_data, build_start, tell_normalisation
    from segstudy.config.check import check, check_overrides
    from segstudy.config.compose import apply_overrides, compose_config
    from segstudy.config.run_folder import MACHINE_SETTINGS
    from segstudy.config.trust import restrict_paths
    from segstudy.errors import ConfigError
    from segstudy.inference.loading import load_run
    from segstudy.runs.record import read_record

    folders, settings = use.runs_and_settings(given)
    if not folders:
        cfg = compose_config(check_overrides(given))
        apply_overrides(cfg, given)
        dataset = build_data(cfg)
        return build_start(cfg, dataset)[0], cfg, dataset
    other = [*map(str, folders[1:]), *(s for s in settings if not MACHINE_SETTINGS.match(s.partition("=")[0]))]
    if other:
        raise ConfigError(
            f"{' '.join(other)} would make another run; after a folder, say only where things are: data.root=…"
        )
    last = (folders[0] / "checkpoints" / "last.ckpt").is_file()  # else only the tested one was kept
    built, cfg = load_run(folders[0], "last" if last else read_record(folders[0]).get("checkpoint", "last"))
    restrict_paths(cfg.data)
    cfg.merge_with_dotlist(settings)
    check(cfg, False, ("data", "loss", "optim", "schedule", "trainer"))
    dataset = build_data(cfg)
    tell_normalisation(dataset, built)
    return built, cfg, dataset


find_app = typer.Typer(no_args_is_help=True, help="Before training: a learning rate, or the largest batch that fits.")

app.add_typer(find_app, name="find", rich_help_panel=LOOK)


@find_app.command("lr")
def find_lr(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 data=voc …")] = None,
    steps: Annotated[int, typer.Option(help="Training steps, each at a higher rate.")] = 100,
    lowest: Annotated[float, typer.Option(help="The first step's rate.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The last step's rate.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("lr.png"),
) -> None:
    """Suggest a learning rate: where the loss falls fastest while the rate grows from step to step.

    Each variant has its own (another model, loss, optimizer, batch size or pretrained encoder: another rate), so a
    study in which each gets the one suggested for it answers another question than one in which all share a rate.
    It is a place to begin, from a few steps and one seed. Nothing is kept but the picture.
    Example: segstudy find lr model=v3 data=voc data.root=photos
    """
    from segstudy.drawing import save
    from segstudy.inspection.learning_rate import draw_rates, find_lr

    cfg = settled(overrides or [])
    found = find_lr(cfg, steps, lowest, highest)
    save(draw_rates(found, " ".join(overrides or ["model=v1"])), out)
    bottom = found.rates[found.smooth.argmin()]
    console.print(
        f"tried {len(found.rates)} steps of {cfg.data.batch_size} images, from {found.rates[0]:.1e} to "
        f"{found.rates[-1]:.1e}: the loss fell fastest at {found.suggested:.1e}, and was lowest at {bottom:.1e}\n"
        f"picture: {out}\nto use it: optim.lr={found.suggested:.1e}    (this variant's; others have their own)",
        highlight=False,
        soft_wrap=True,
    )
    if cfg.optim.encoder_lr is not None:
        console.print(
            f"[yellow]encoder and rest were tried at one rate; optim.encoder_lr={cfg.optim.encoder_lr} was not used",
            highlight=False,
        )


@find_app.command("batch")
def find_batch(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 data=voc …")] = None,
    limit: Annotated[int, typer.Option(min=2, help="No batch larger than this is tried.")] = 64,
) -> None:
    """Find the largest batch that fits into memory, doubling it from 2 on; three training steps each.

    On a CPU nothing says that memory is full before the system ends the process: raise --limit with care there.
    A batch of another size is another training: compare variants at one size. Images of several sizes
    (data.augment.sizes) may need more than was tried. Example: segstudy find batch model=v3 data.size=256 --limit 256
    """
    from segstudy.inspection.batch_size import find_batch

    cfg = settled(overrides or [])
    found = find_batch(cfg, limit)
    console.print(
        f"trained with {', '.join(map(str, found.fitted))} images a batch; {found.ended}\n"
        f"largest: {found.largest}; peak memory {found.peak:.2f} GiB\nto use it: data.batch_size={found.largest}",
        highlight=False,
        soft_wrap=True,
    )


def settled(given: list[str]) -> Any:
    """The checked config of a command's settings, and Lightning told to say only what matters."""
    from segstudy.config.check import check_overrides
    from segstudy.config.compose import apply_overrides, compose_config
    from segstudy.console import silence_warnings

    cfg = compose_config(check_overrides(given))
    apply_overrides(cfg, given)
    silence_warnings()
    return cfg


app.add_typer(study.app)

app.add_typer(use.app)


def main() -> None:
    """Entry point: the user's mistakes are printed plainly, with exit code 2."""
    from segstudy.errors import SegstudyError

    try:
        app()
    except SegstudyError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/]", end=" ")
        print(error, file=sys.stderr)
        sys.exit(2)
