"""Commands before training: network, inspect, find lr, find batch."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from segstudy.cli.arguments import BEFORE, PICTURES, config_of, output, runs_and_settings
from segstudy.console import console, print_line, silence_warnings
from segstudy.errors import ConfigError, first_line

app = typer.Typer()


@app.command(rich_help_panel=BEFORE)
def network(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 encoder=resnet50 …")] = None,
    size: Annotated[int, typer.Option(min=1, max=32_768, help="Side of the image in pixels.")] = 256,
    classes: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Number of classes; default: the data's.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Depth to which modules are listed.")] = 2,
    out: Annotated[
        Path | None, typer.Option(callback=output(*PICTURES), help="Also draw the network: network.png, .svg or .pdf.")
    ] = None,
) -> None:
    """Show a network: its layers, parameters, GFLOP and receptive fields. Opens no data and loads no weights.

    Example: segstudy network model=v3 --classes 21 --out v3.png
    """
    from segstudy.build import build_network
    from segstudy.config.targets import locate
    from segstudy.data.bands import Bands

    given = [*(overrides or []), *placeholders(overrides or [])]
    cfg = config_of(given)
    names = getattr(locate(cfg.data._target_), "classes", None)
    if classes is None and names is None:
        raise ConfigError(f"{cfg.data._target_} reads its classes from its files\n  → --classes N")
    number = classes or len(names or ())
    built, _ = build_network(cfg, number, load_weights=False, channels=Bands.of(cfg.data).number)
    plain = all(o.startswith(("model=", "data=", "data.")) for o in given)
    name = next((o.removeprefix("model=") for o in reversed(given) if o.startswith("model=")), "v1")
    title = " ".join(overrides or ["model=v1"])
    totals = print_network(built, title, size, number, depth, name if plain else None)
    if out:
        from segstudy.drawing import save
        from segstudy.inspection.diagram import draw
        from segstudy.inspection.summary import trace_architecture

        save(draw(trace_architecture(built, size, size), f"{title}: {totals}"), out)
        print_line(f"picture: {out}")


def placeholders(overrides: list[str]) -> list[str]:
    """Values for the data set's missing settings; they are not used, since it is not opened."""
    from omegaconf import OmegaConf

    from segstudy.config.paths import CONF

    file = CONF / "data" / f"{next((o[5:] for o in reversed(overrides) if o.startswith('data=')), '')}.yaml"
    if not file.is_file():
        return []
    cfg = OmegaConf.load(file)
    needed = [f"data.{key}" for key in map(str, cfg) if OmegaConf.is_missing(cfg, key)]
    return [f"{key}=unopened" for key in needed if not any(o.startswith(f"{key}=") for o in overrides)]


def print_network(built: Any, title: str, size: int, classes: int, depth: int, name: str | None) -> str:
    """Print the tables of layers (modules up to `depth`) and receptive fields; returns the line of totals.

    name: the model's; for v1 to v4 the published numbers are printed, too.
    """
    from segstudy.inspection.receptive_field import receptive_fields
    from segstudy.inspection.summary import PUBLISHED, describe

    try:
        layers = describe(built, size, size)
    except Exception as error:  # networks with a fixed input size raise errors of any type
        raise ConfigError(f"the network refuses {size}×{size}: {first_line(error)}\n  → --size N") from error
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
    fields = Table("map", title="receptive fields at the middle pixel")
    for column in ("channels", "stride", "receptive field", "without global pooling"):
        fields.add_column(column, justify="right")
    for f in receptive_fields(built, (size, size)):
        fields.add_row(f.name, str(f.channels), str(f.stride), f.text(), f"{f.local} px" if f.local else f.text())
    console.print(fields)
    print_line(f"{totals} (one multiply-add is 2 FLOP)")
    if name in PUBLISHED:
        parameters, gflop = PUBLISHED[name]
        print_line(f"published for {name}: {parameters:,} parameters, {gflop} GFLOP at 256×256, 21 classes")
    return totals


@app.command(rich_help_panel=BEFORE)
def inspect(
    what: Annotated[list[str] | None, typer.Argument(help="Settings (model=v3 data=voc …), or a run's folder.")] = None,
) -> None:
    """Show each layer's activations and gradients in the first training batch, and flag problems.

    With settings: the network in its initial state. With a run's folder: the network with its last weights; settings
    after the folder may only give paths on this machine: data.root=photos.
    Example: segstudy inspect model=v3 data.batch_size=4
    """
    import torch

    from segstudy.build import build_module
    from segstudy.inspection.activations import first_batch, inspect_batch, print_table
    from segstudy.inspection.trial import check_trains
    from segstudy.precision import choose_device

    given = what or []
    built, cfg, dataset = open_training(given)
    device = torch.device(choose_device(cfg.trainer.accelerator, "32-true")[0])
    check_trains(built, dataset.batch_size, dataset.size, device, nullcontext())
    module = build_module(cfg, built, dataset).to(device).train()
    rows = inspect_batch(module, first_batch(dataset, device), module.loss)
    flagged = sum(row.flagged for row in rows)
    print_table(rows, " ".join(given) or "model=v1", console)
    print_line(f"{flagged} of {len(rows)} layers flagged")


def open_training(given: list[str]) -> tuple[Any, Any, Any]:
    """Network, config and data set from settings, or from a run's folder and settings of this machine."""
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
            f"{' '.join(other)} would change the run; after a folder, only paths can be set, such as data.root=…"
        )
    last = (folders[0] / "checkpoints" / "last.ckpt").is_file()  # else only the tested checkpoint exists
    built, cfg = load_run(folders[0], "last" if last else read_record(folders[0]).get("checkpoint", "last"))
    restrict_paths(cfg.data)
    cfg.merge_with_dotlist(settings)
    check(cfg, False, ("data", "loss", "optim", "schedule", "trainer"))
    dataset = build_data(cfg)
    return built, cfg, dataset


find_app = typer.Typer(no_args_is_help=True, help="Find a learning rate, or the largest batch that fits into memory.")

app.add_typer(find_app, name="find", rich_help_panel=BEFORE)


@find_app.command("lr")
def find_lr(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 data=voc …")] = None,
    steps: Annotated[int, typer.Option(min=20, help="Number of training steps, each at a higher rate.")] = 100,
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 1.0,
    out: Annotated[Path, typer.Option(callback=output(*PICTURES), help="Picture file to write.")] = Path("lr.png"),
) -> None:
    """Suggest a learning rate: the one where the loss falls fastest while the rate grows from step to step.

    The suggestion differs with the model, loss, optimizer, batch size and pretrained encoder. A study with one rate for
    each variant answers another question than a study with one rate for all.
    It is only a starting point, from a few steps and one seed. Only the picture is saved.
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
    print_line(
        f"tried {len(found.rates)} steps of {cfg.data.batch_size} images, from {found.rates[0]:.1e} to "
        f"{found.rates[-1]:.1e}: the loss fell fastest at {found.suggested:.1e}, and was lowest at {bottom:.1e}\n"
        f"picture: {out}\nto use it: optim.lr={found.suggested:.1e}    (for this variant only)"
    )
    if (ignored := cfg.optim.encoder_lr) is not None:
        print_line(f"encoder and decoder used the same rate; optim.encoder_lr={ignored} was ignored", "yellow")


@find_app.command("batch")
def find_batch(
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings: model=v3 data=voc …")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Largest batch to try.")] = 64,
) -> None:
    """Find the largest batch that fits into memory: 2, 4, 8, …, three training steps each.

    On a CPU the system kills the process when memory is full, without an error: raise --limit with care there.
    The batch size changes the training: compare variants at the same one. Images of several sizes
    (data.augment.sizes) may need more memory than was tried.
    Example: segstudy find batch model=v3 data.size=256 --limit 256
    """
    from segstudy.build import build_trial
    from segstudy.inspection.batch_size import find_batch

    silence_warnings()
    cfg = config_of(overrides or [])
    found = find_batch(partial(build_trial, cfg), limit)
    print_line(
        f"trained with {', '.join(map(str, found.fitted))} images a batch; {found.ended}\n"
        f"largest: {found.largest}; peak memory {found.peak:.2f} GiB\nto use it: data.batch_size={found.largest}"
    )
