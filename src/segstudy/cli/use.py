"""Commands that use finished runs: evaluate, predict, export, card, demo, runs."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer()

console = Console()


def runs_and_settings(given: list[str]) -> tuple[list[Path], list[str]]:
    """The folders among a command's words, and its settings; runs' names have "=" in them too: what is there is one."""
    settings = [word for word in given if "=" in word and not Path(word).is_dir()]
    return [Path(word) for word in given if word not in settings], settings


@app.command(rich_help_panel="Use what was trained")
def evaluate(
    what: Annotated[list[str], typer.Argument(help="Folders of runs, and settings: data.root=…, data.val=…")],
    data: Annotated[str | None, typer.Option(help="Another file of conf/data, with the same classes.")] = None,
    split: Annotated[str | None, typer.Option(help="fit, select, report, or a list; the run's reported one.")] = None,
    size: Annotated[str, typer.Option(help="Of the network's images: train, original, N or HEIGHTxWIDTH.")] = "train",
    tta: Annotated[str | None, typer.Option(help="Also average views: flip, factors of the size: flip,0.75,1")] = None,
    tiles: Annotated[int | None, typer.Option(help="See images in tiles of this side; at --size original.")] = None,
    overlap: Annotated[float, typer.Option(help="Of neighbouring tiles, 0 to 0.9 of their side.")] = 0.5,
    save_masks: Annotated[Path | None, typer.Option(help="A folder for the predictions, as indexed PNGs.")] = None,
    json: Annotated[Path | None, typer.Option(help="A file for all figures and confusion matrices.")] = None,
    retest: Annotated[
        bool, typer.Option("--retest", help="Replace each run's test/ and the record's figures.")
    ] = False,
) -> None:
    """Test finished runs again, on their own images or others with the same classes.

    Several runs are also averaged: an ensemble, compared with each. Means are of probabilities at the network's size,
    and interpolated to the original one. --retest tests each run as its training did, and writes that into its folder.
    Example: segstudy evaluate runs/study/v1 runs/study/v4 data.root=photos --tta flip --save-masks masks
    """
    from segstudy.console import silence_warnings
    from segstudy.errors import ConfigError
    from segstudy.inference.evaluate import TestTimeAugmentation
    from segstudy.inference.loading import EvaluationSpec
    from segstudy.inference.tiles import Tiles

    silence_warnings()
    folders, settings = runs_and_settings(what)
    if not folders:
        raise ConfigError(f"{' '.join(what)}: no run's folder among these\n  → segstudy evaluate RUN data.root=…")
    if not retest:
        wanted = EvaluationSpec(settings, data, split, "original" if tiles is not None and size == "train" else size)
        views = TestTimeAugmentation.parse(tta) if tta else None
        parts = None if tiles is None else Tiles(tiles, overlap)
        return evaluate_runs(folders, wanted, views, parts, (save_masks, json))
    options = {"--data": data, "--split": split, "--tta": tta, "--tiles": tiles, "--save-masks": save_masks}
    options |= {"--json": json}
    if clash := [flag for flag, value in options.items() if value] + ["--size"] * (size != "train"):
        raise ConfigError(f"--retest is the run's own test, without {' '.join(clash)}")
    retest_runs(folders, settings)


def retest_runs(folders: list[Path], settings: list[str]) -> None:
    """Test runs as their training did, one after the other."""
    from segstudy.inference.evaluate import retest
    from segstudy.runs.tables import print_classes

    for folder in folders:
        console.rule(f"[bold]{folder.name}")
        record, line = retest(folder, settings)
        print_classes(record, console)
        console.print(
            f"{line}\nreplaced: {folder / 'test'}, and the figures of {folder / 'record.json'}", soft_wrap=True
        )


def evaluate_runs(
    folders: list[Path], wanted: Any, views: Any, tiles: Any, saved: tuple[Path | None, Path | None]
) -> None:
    """Evaluate runs together, print what came out, and save what is asked for: a folder of masks, a file of figures."""
    from segstudy.callbacks.per_image_confusion import dataset_metrics
    from segstudy.inference import evaluate as tests
    from segstudy.inference.loading import evaluation_config, evaluation_data, load_runs
    from segstudy.runs.tables import print_classes

    masks, file = saved
    members = load_runs(folders)
    cfg = evaluation_config(members, wanted)
    dataset = evaluation_data(cfg, members, wanted)
    images, device = dataset.roles["report"], tests.device_line(cfg)
    at = "original size" if wanted.size == "original" else "×".join(map(str, dataset.size))
    at += f", in tiles of {tiles.side}×{tiles.side} that overlap by {tiles.overlap:g}" if tiles else ""
    console.print(f"{len(images)} images of {dataset.name} {images.name!r} at {at}; {device}", highlight=False)
    for line in tests.trained_on(dataset, members):
        console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)
    counts = tests.evaluate(members, cfg, dataset, views, masks, tiles)
    rows = {
        name: dataset_metrics(c, dataset.classes) | {"confusion": {s: m.tolist() for s, m in c.items()}}
        for name, c in counts.items()
    }
    last = list(rows)[-1]
    print_classes(rows[last], console, last)
    if len(rows) > 1:
        tests.print_rows(rows, len(members), console)
    lines = {m.name: tests.against_record(rows[m.name]["metrics"], dataset, m.record) for m in members}
    for name, line in lines.items():
        console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
    if masks:
        console.print(f"masks of {last}: {masks}", highlight=False, markup=False, soft_wrap=True)
    if file:
        about = {"runs": {m.name: str(m.folder) for m in members}, "data": dataset.describe(), "size": wanted.size}
        about |= {"views": views and vars(views), "tiles": tiles and vars(tiles), "own_test": lines, "device": device}
        tests.write_json(rows, about, file)


@app.command(rich_help_panel="Use what was trained")
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    paths: Annotated[list[str], typer.Argument(help="Photos, folders (walked), patterns in quotes: 'photos/*.jpg'")],
    out: Annotated[Path, typer.Option(help="The folder for masks and predictions.csv.")] = Path("predictions"),
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also photos with the classes in colour, a legend below.")
    ] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How opaque an overlay's colours are.")] = 0.5,
    classes: Annotated[str | None, typer.Option(help="Keep these, the others become background: cat,dog")] = None,
    size: Annotated[str, typer.Option(help="Of the network's image: train, original, N or HEIGHTxWIDTH.")] = "train",
    tiles: Annotated[
        int | None, typer.Option(help="See photos in tiles of this side, in their own size or --size.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Of neighbouring tiles, 0 to 0.9 of their side.")] = 0.5,
    tta: Annotated[str | None, typer.Option(help="Average views: flip, factors of the size: flip,0.75,1")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Photos, or tiles, at a time; by their size.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict again what is there already.")] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger photos are refused, undecoded.")] = 178_956_970,
    json: Annotated[Path | None, typer.Option(help="A file for all rows, failures and the speed.")] = None,
) -> None:
    """Predict photos: masks in their own size, colour overlays, and a table of each class's share.

    The same command again continues: what is there is skipped. Photos that cannot be read are named at the end, and
    make the exit code 1. Example: segstudy predict runs/study/v4 photos --overlay --out predictions
    """
    from segstudy.console import silence_warnings
    from segstudy.inference.loading import TestTimeAugmentation, parse_size
    from segstudy.inference.model import load
    from segstudy.inference.predict import PredictionTask, kept_classes
    from segstudy.inference.predictions import predict_all
    from segstudy.inference.tiles import Tiles

    silence_warnings()
    if size not in ("train", "original"):
        parse_size(size)
    views = TestTimeAugmentation.parse(tta) if tta else None
    parts = None if tiles is None else Tiles(tiles, overlap)
    model = load(run, device)
    keep = kept_classes(model, classes) if classes is not None else None
    task = PredictionTask(size, views, parts, batch, keep, alpha if overlay else None, max_pixels)
    if not predict_all(model, task, paths, out, overwrite, json, console):
        raise typer.Exit(1)


@app.command(rich_help_panel="Use what was trained")
def card(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="The file, if not RUN/card.md; pictures go beside it.")] = None,
    latency: Annotated[bool, typer.Option(help="Measure the network's speed on this machine.")] = True,
    license: Annotated[str | None, typer.Option(help="Of the weights, as model hubs name it: mit, cc-by-4.0.")] = None,
) -> None:
    """Write a run's model card: what it is, its data, figures with intervals, failures, speed, use and limits.

    Example: segstudy card runs/study/v4 --license mit
    """
    from segstudy.console import silence_warnings
    from segstudy.inference.card import write_card

    silence_warnings()
    with console.status("measuring the network's speed …" if latency else "writing …"):
        file = write_card(run, out, latency, license)
    console.print(f"card: {file}", highlight=False, markup=False, soft_wrap=True)


@app.command(rich_help_panel="Use what was trained")
def runs(
    folder: Annotated[Path, typer.Argument(help="All studies, one of them, or one run.")] = Path("runs"),
    status: Annotated[
        list[str] | None, typer.Option(help="Only done, failed, running, interrupted or unreadable; may be repeated.")
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Print the runs' folders alone, one a line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a list for machines instead of the table.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Show what can be removed, ask, and remove it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --clean: remove without asking.")] = False,
) -> None:
    """List all runs: status, what they change, figures, epochs, time, size on disk.

    --clean removes failed runs without a checkpoint, of done runs every checkpoint but the tested one, and what killed
    processes left; nothing of a run that goes on or can be continued. Exit code 1 if not all of it was removed.
    Example: segstudy runs runs/voc-animals --status failed --clean
    """
    from segstudy.errors import ConfigError
    from segstudy.inference.cleaning import plan
    from segstudy.runs import listing

    if yes and not clean:
        raise ConfigError("--yes answers --clean's question: say --clean too")
    if clean and (json or paths):
        raise ConfigError("--clean shows what it removes in a table, without --json and --paths")
    everything = listing.list_runs(folder)
    found = listing.only(everything, status or [])
    items = plan(everything, folder, status or [])
    if clean:
        return clean_items(items, folder, yes)
    if json or paths:
        return typer.echo(listing.as_json(found) if json else "\n".join(str(run.folder) for run in found))
    listing.print_runs(found, console)
    if gain := sum(item.bytes for item in items):
        console.print(
            f"{listing.decimal(gain)} of it can be removed: segstudy runs {folder} --clean shows what, and asks",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def clean_items(items: Any, folder: Path, yes: bool) -> None:
    """Show what can be removed, ask, and remove it."""
    from segstudy.inference import cleaning
    from segstudy.runs.listing import counted, decimal

    if not items:
        console.print(f"nothing in {folder} can be removed", highlight=False, markup=False, soft_wrap=True)
        return
    cleaning.print_items(items, folder, console)
    told = f"{counted(len(items), 'item')}, {decimal(sum(item.bytes for item in items))}"
    if not yes:
        typer.confirm(f"remove these ({told})?", abort=True)
    freed = cleaning.clean(items)
    for item, reason in freed.left:
        console.print(f"left: {item.path}: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    gain = decimal(sum(item.bytes for item in freed.removed))
    console.print(f"removed {counted(len(freed.removed), 'item')}, freed {gain}", highlight=False)
    if freed.left:
        raise typer.Exit(1)


@app.command(rich_help_panel="Use what was trained")
def demo(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    host: Annotated[str, typer.Option(help="The address to serve at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels.")] = 50_000_000,
    examples: Annotated[Path | None, typer.Option(help="A folder with photos to offer; its first six.")] = None,
) -> None:
    """Show on a local web page what trained networks see in a photo: areas, confidence, and where several runs differ.

    Only this machine reaches the page, unless --host says otherwise; the page loads nothing from elsewhere.
    Several runs stand side by side. Their classes may differ; where they disagree is shown if they do not.
    Example: segstudy demo runs/study/v1 runs/study/v4 --examples photos
    """
    from segstudy.inference import demo as web

    with web.uploads() as folder, web.listen(host, port) as bound:
        photos = web.examples_in(examples, folder) if examples else []
        opened = web.open_demo(runs, folder, device, max_pixels)
        served = web.server(web.web_app(web.page(opened, photos)))
        names = ", ".join(m.name for m in opened.models)
        console.print(f"{names} on {opened.models[0].device_line}", highlight=False, markup=False, soft_wrap=True)
        if not web.is_local(bound):
            console.print("everyone who reaches this machine over the network can use the page", style="bold yellow")
        console.print(f"open {web.address(bound)} in a browser; Ctrl-C ends it", highlight=False, soft_wrap=True)
        web.serve(served, bound)
    console.print("ended; the uploaded photos are removed")  # Python takes seconds to clear so many modules away


class Format(StrEnum):
    """What segstudy export writes."""

    onnx = "onnx"
    torchscript = "torchscript"
    torch_export = "torch.export"
    state_dict = "state_dict"
    hub = "hub"


class Quantise(StrEnum):
    """How an ONNX file gets 8-bit weights."""

    none = "none"
    dynamic = "dynamic"
    static = "static"


@app.command(rich_help_panel="Use what was trained")
def export(
    what: Annotated[list[str], typer.Argument(help="A run's folder, and for int8 settings of its data: data.root=…")],
    format: Annotated[Format, typer.Option(help="hub: a folder with weights, config and model card.")] = Format.onnx,
    out: Annotated[
        Path | None, typer.Option(help="A file or folder; else a file named after the run in the current folder.")
    ] = None,
    quantise: Annotated[
        Quantise, typer.Option(help="int8 weights for onnx; static also fixes the activations' ranges, on images.")
    ] = Quantise.none,
    images: Annotated[int, typer.Option(min=1, help="At most so many reported images measure the loss by int8.")] = 100,
    json: Annotated[Path | None, typer.Option(help="A file for what was compared and measured.")] = None,
) -> None:
    """Write a run's network for other programs: image in 0…1 → logits, with normalisation, classes and colours inside.

    The file is run in its own format and compared with PyTorch at several sizes before it is kept. state_dict and hub
    hold weights alone, for images that are normalised before; segstudy.load opens hub's folder.
    Example: segstudy export runs/study/v4 --format onnx --out v4.onnx
    """
    from segstudy.console import silence_warnings
    from segstudy.errors import ConfigError

    silence_warnings()
    folders, settings = runs_and_settings(what)
    if len(folders) != 1:
        raise ConfigError(f"{len(folders)} runs are given: one at a time\n  → segstudy export RUN --format onnx")
    if quantise != Quantise.none and format != Format.onnx:
        raise ConfigError(f"--quantise {quantise.value}: for --format onnx, not {format.value}")
    if settings and quantise == Quantise.none:
        raise ConfigError(f"{' '.join(settings)}: no images are read without --quantise")
    export_run(folders[0], settings, format.value, out, quantise.value, images, json)


def export_run(
    folder: Path, settings: list[str], kind: str, out: Path | None, quantised: str, count: int, file: Path | None
) -> None:
    """Write one run, print how the file compares, and save that if asked."""
    from segstudy.errors import ConfigError
    from segstudy.inference import export as exports
    from segstudy.inference.evaluate import write_json
    from segstudy.inference.int8 import shrink
    from segstudy.inference.loading import load_runs
    from segstudy.inference.model import Model

    members = load_runs([folder])
    model = Model(members[0], "cpu")
    place = exports.place_of(
        out,
        " ".join(w for w in model.name.split() if not w.startswith("study="))
        + (".int8" if quantised != "none" else ""),
        kind,
    )
    exports.require(*exports.NEEDS.get(kind, ()))
    data, missing = images_of(members, settings, quantised) if quantised != "none" else (None, "")
    try:
        with console.status(f"writing {place} and running it …"):
            done = exports.export(
                model, kind, place,
                (lambda e: shrink(e.path, quantised, model, e.free, data, count)) if quantised != "none" else None,
            )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error}") from error
    tell_export(done, kind, missing)
    if file:
        write_json([asdict(row) for row in done.rows], {"format": kind} | done.as_json(), file)


def images_of(members: Any, settings: list[str], quantised: str) -> tuple[Any, str]:
    """The run's data, or None and why it cannot be opened. Raises ConfigError if static quantisation needs it."""
    from segstudy.errors import ConfigError, SegstudyError
    from segstudy.inference.loading import EvaluationSpec, evaluation_config, evaluation_data

    try:
        return evaluation_data(
            evaluation_config(members, EvaluationSpec(settings)), members, EvaluationSpec(settings)
        ), ""
    except SegstudyError as error:
        if quantised == "static":
            raise ConfigError(
                f"--quantise static finds the ranges of activations on the run's images, and they cannot be opened:\n"
                f"{error}\n  → segstudy export RUN data.root=FOLDER --quantise static, or --quantise dynamic"
            ) from error
        return None, str(error)


def tell_export(done: Any, kind: str, missing: str) -> None:
    """Print what was written, and how it compares."""
    from rich.table import Table

    table = Table(title=f"{kind} against PyTorch, float32 on the CPU")
    for column in ("images", "largest difference", "largest logit", "pixels of equal class"):
        table.add_column(column, justify="right")
    for row in done.rows:
        size = f"{row.batch}×3×{row.height}×{row.width}"
        table.add_row(size, f"{row.difference:.1e}", f"{row.largest:.3g}", f"{row.agreement:.4%}")
    console.print(table)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for line in done.skipped:
        say(f"not compared, the network itself refuses it: {line}")
    sides = "×".join(map(str, done.about["input_shape"]))
    fixed = "" if len(done.free) == 3 else f"; numbers are fixed, since {'; '.join(done.why)}"
    say(f"input: {done.about['input']}, {sides}{fixed}")
    if done.int8:
        tell_int8(done.int8, missing, say)
    say(f"written: {done.path} ({size_on_disk(done.path) / 1e6:.1f} MB)")


def tell_int8(int8: dict[str, Any], missing: str, say: Any) -> None:
    """Print what 8-bit weights cost and bring."""
    before, after = int8["bytes"]["float"], int8["bytes"]["int8"]
    say(
        f"int8, {int8['kind']}: {after / 1e6:.1f} MB for {before / 1e6:.1f} MB; on the generated pictures "
        f"logits differ by up to {int8['difference']:.2g}, and {int8['agreement']:.2%} of the pixels or more agree"
    )
    if loss := int8["loss"]:
        miou = loss["miou"]
        time = {name: f"{1000 * seconds:.1f}" for name, seconds in loss["seconds_per_image"].items()}
        say(
            f"mIoU on {loss['images']} images of {loss['split']!r}, at network size: float {miou['float']:.4f}, int8 "
            f"{miou['int8']:.4f} ({loss['miou_difference']:+.4f}); {loss['speed_ratio']:.2f}× as fast "
            f"({time['int8']} ms an image, float {time['float']})"
        )
    else:
        say(f"the loss in mIoU was not measured, the run's images cannot be opened:\n{missing}")
        say("  → segstudy export RUN data.root=FOLDER --quantise … measures it")


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
