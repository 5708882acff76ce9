"""`segstudy evaluate`: test finished runs again."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from segstudy.cli.arguments import USE, ViewOptions, output, runs_and_settings, with_options
from segstudy.console import console, print_line, silence_warnings
from segstudy.errors import ConfigError
from segstudy.formatting import counted

app = typer.Typer()


@dataclass
class EvaluateOptions(ViewOptions):
    data: Annotated[str | None, typer.Option(help="Another file of conf/data, with the same classes.")] = None
    split: Annotated[
        str | None, typer.Option(help="fit, select, report, or a list of the data set; default report.")
    ] = None
    save_masks: Annotated[
        Path | None, typer.Option(callback=output(folder=True), help="Folder for the predictions, as indexed PNGs.")
    ] = None
    json: Annotated[
        Path | None, typer.Option(callback=output(), help="File for all metrics and confusion matrices.")
    ] = None


@app.command(rich_help_panel=USE)
@with_options
def evaluate(
    what: Annotated[list[str], typer.Argument(help="Run folders, and settings: data.root=…, data.val=…")],
    retest: Annotated[
        bool, typer.Option("--retest", help="Repeat each run's own test, and replace test/ and the record's results.")
    ] = False,
    *,
    options: EvaluateOptions,
) -> None:
    """Test finished runs again, on their own images or on others with the same classes.

    Several runs are also tested as an ensemble: the mean of their probabilities at the network's size, interpolated to
    the original size. Their networks must see images at one size: runs of different data.fit need --size original.
    --retest repeats each run's own test and writes the results into its folder.
    Example: segstudy evaluate runs/study/v1 runs/study/v4 data.root=photos --tta flip --save-masks masks
    """
    silence_warnings()
    folders, settings = runs_and_settings(what)
    if not folders:
        raise ConfigError(f"{' '.join(what)}: none of these is a run folder\n  → segstudy evaluate RUN data.root=…")
    if not retest:
        return evaluate_runs(folders, settings, options)
    if clash := [f.name for f in fields(options) if getattr(options, f.name) != f.default]:
        flags = " ".join(f"--{name.replace('_', '-')}" for name in clash)
        raise ConfigError(f"--retest repeats the run's own test: it cannot be combined with {flags}")
    retest_runs(folders, settings)


def retest_runs(folders: list[Path], settings: list[str]) -> None:
    from segstudy.inference.evaluate import retest
    from segstudy.runs.tables import print_classes

    for folder in folders:
        console.rule(f"[bold]{escape(folder.name)}")
        record, line = retest(folder, settings)
        print_classes(record, console)
        print_line(f"{line}\nreplaced: {folder / 'test'}, and the results in {folder / 'record.json'}")


def evaluate_runs(folders: list[Path], settings: list[str], options: EvaluateOptions) -> None:
    """Evaluate runs together, print the results, and save masks and JSON if requested."""
    from segstudy.callbacks.per_image_confusion import dataset_metrics
    from segstudy.inference import evaluate as tests
    from segstudy.inference.loading import EvaluationSpec, evaluation_config, evaluation_data, load_runs
    from segstudy.runs.tables import print_classes

    views, tiles = options.parsed()
    wanted = EvaluationSpec(settings, options.data, options.split, options.size, tiles is not None)
    members = load_runs(folders)
    cfg = evaluation_config(members, wanted)
    dataset = evaluation_data(cfg, members, wanted)
    images, device = dataset.roles["report"], tests.device_line(cfg)
    at = dataset.fit.seen
    at += f", in tiles of {tiles.side}×{tiles.side} that overlap by {tiles.overlap:g}" if tiles else ""
    print_line(f"{counted(len(images), 'image')} of {dataset.name} {images.name!r} at {at}; {device}")
    for line in tests.trained_on(dataset, members):
        print_line(line, "bold red")
    counts = tests.evaluate(tests.Evaluation(members, views, options.save_masks, tiles), cfg, dataset)
    rows = {
        name: dataset_metrics(c, dataset.classes) | {"confusion": {s: m.tolist() for s, m in c.items()}}
        for name, c in counts.items()
    }
    last = list(rows)[-1]
    described = dataset.describe()
    print_classes(rows[last] | {"data": described}, console, last)
    if len(rows) > 1:
        tests.print_rows(rows, len(members))
    lines = {m.name: tests.against_record(rows[m.name]["metrics"], dataset, m.record) for m in members}
    for name, line in lines.items():
        print_line(f"{name}: {line}")
    if options.save_masks:
        print_line(f"masks of {last}: {options.save_masks}")
    if options.json:
        about = {"runs": {m.name: str(m.folder) for m in members}, "data": described, "size": options.size}
        about |= {"views": views and vars(views), "tiles": tiles and vars(tiles), "own_test": lines, "device": device}
        tests.write_json(rows, about, options.json)
