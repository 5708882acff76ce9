"""Commands that look before training: network, inspect, and find lr, find batch."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from segstudy.cli.arguments import BEFORE, config_of, runs_and_settings
from segstudy.console import console, silence_warnings
from segstudy.errors import ConfigError, first_line

app = typer.Typer()


@app.command(rich_help_panel=BEFORE)
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
    from segstudy.config.targets import locate

    given = [*(overrides or []), *placeholders(overrides or [])]
    cfg = config_of(given)
    names = getattr(locate(cfg.data._target_), "classes", None)
    if classes is None and names is None:
        raise ConfigError(f"{cfg.data._target_} knows its classes only from its files\n  → --classes N")
    number = classes or len(names or ())
    built, _ = build_network(cfg, number, load_weights=False)
    plain = all(o.startswith(("model=", "data=", "data.")) for o in given)
    name = next((o.removeprefix("model=") for o in reversed(given) if o.startswith("model=")), "v1")
    title = " ".join(overrides or ["model=v1"])
    totals = print_network(built, title, size, number, depth, name if plain else None)
    if out:
        from segstudy.drawing import save
        from segstudy.inspection.diagram import draw
        from segstudy.inspection.summary import trace_architecture

        save(draw(trace_architecture(built, size, size), f"{title}: {totals}"), out)
        console.print(f"picture: {out}")


def placeholders(overrides: list[str]) -> list[str]:
    """Values for the settings without which a data set cannot be opened: here it is not."""
    from omegaconf import OmegaConf

    from segstudy.config.paths import CONF

    file = CONF / "data" / f"{next((o[5:] for o in reversed(overrides) if o.startswith('data=')), '')}.yaml"
    if not file.is_file():
        return []
    cfg = OmegaConf.load(file)
    needed = [f"data.{key}" for key in map(str, cfg) if OmegaConf.is_missing(cfg, key)]
    return [f"{key}=unopened" for key in needed if not any(o.startswith(f"{key}=") for o in overrides)]


def print_network(built: Any, title: str, size: int, classes: int, depth: int, name: str | None) -> str:
    """Print the tables of layers (of modules up to `depth`) and of receptive fields; returns the line of totals.

    name: of one of V1 … V4, whose published numbers are printed too.
    """
    from segstudy.inspection.receptive_field import receptive_fields
    from segstudy.inspection.summary import PUBLISHED, describe

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
    return totals


@app.command(rich_help_panel=BEFORE)
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
    built, cfg, dataset = open_training(given)
    device = torch.device(choose_device(cfg.trainer.accelerator, "32-true")[0])
    module = build_module(cfg, built, dataset).to(device).train()
    rows = inspect_batch(module, first_batch(dataset, device), module.loss)
    flagged = sum(row.flagged for row in rows)
    console.print(table(rows, " ".join(given) or "model=v1"))
    console.print(f"{flagged} of {len(rows)} layers flagged", highlight=False)


def open_training(given: list[str]) -> tuple[Any, Any, Any]:
    """Network, config and data set of settings, or of a run's folder and settings of this machine."""
    from segstudy.build import build_data, build_start
    from segstudy.config.check import check
    from segstudy.config.trust import restrict_paths
    from segstudy.inference.loading import load_run, other_settings
    from segstudy.runs.record import read_record

    folders, settings = runs_and_settings(given)
    if not folders:
        cfg = config_of(given)
        dataset = build_data(cfg)
        return build_start(cfg, dataset)[0], cfg, dataset
    if other := [*map(str, folders[1:]), *other_settings(settings)]:
        raise ConfigError(
            f"{' '.join(other)} would make another run; after a folder, say only where things are: data.root=…"
        )
    last = (folders[0] / "checkpoints" / "last.ckpt").is_file()  # else only the tested one was kept
    built, cfg = load_run(folders[0], "last" if last else read_record(folders[0]).get("checkpoint", "last"))
    restrict_paths(cfg.data)
    cfg.merge_with_dotlist(settings)
    check(cfg, False, ("data", "loss", "optim", "schedule", "trainer"))
    dataset = build_data(cfg)
    return built, cfg, dataset


find_app = typer.Typer(no_args_is_help=True, help="Before training: a learning rate, or the largest batch that fits.")

app.add_typer(find_app, name="find", rich_help_panel=BEFORE)


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
    from segstudy.build import build_trial
    from segstudy.drawing import save
    from segstudy.inspection.learning_rate import draw_learning_rates, find_lr

    silence_warnings()
    cfg = config_of(overrides or [])
    found = find_lr(partial(build_trial, cfg), steps, lowest, highest)
    save(draw_learning_rates(found, " ".join(overrides or ["model=v1"])), out)
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
    from segstudy.build import build_trial
    from segstudy.inspection.batch_size import find_batch

    silence_warnings()
    cfg = config_of(overrides or [])
    found = find_batch(partial(build_trial, cfg), limit)
    console.print(
        f"trained with {', '.join(map(str, found.fitted))} images a batch; {found.ended}\n"
        f"largest: {found.largest}; peak memory {found.peak:.2f} GiB\nto use it: data.batch_size={found.largest}",
        highlight=False,
        soft_wrap=True,
    )
