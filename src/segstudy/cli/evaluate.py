"""`segstudy evaluate`: test finished runs again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from segstudy.cli.arguments import USE, runs_and_settings
from segstudy.console import console, print_line, silence_warnings
from segstudy.errors import ConfigError

app = typer.Typer()


@app.command(rich_help_panel=USE)
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
    from segstudy.inference.loading import EvaluationSpec
    from segstudy.inference.tiles import Tiles
    from segstudy.inference.tta import TestTimeAugmentation

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
        print_line(line, "bold red")
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
        print_line(f"{name}: {line}")
    if masks:
        print_line(f"masks of {last}: {masks}")
    if file:
        about = {"runs": {m.name: str(m.folder) for m in members}, "data": dataset.describe(), "size": wanted.size}
        about |= {"views": views and vars(views), "tiles": tiles and vars(tiles), "own_test": lines, "device": device}
        tests.write_json(rows, about, file)
