"""Commands that use finished runs: evaluate, predict, export, card, demo, runs."""

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
    from segstudy.errors import ConfigError
    from segstudy.inference.evaluate import Views
    from segstudy.inference.runs import Wanted
    from segstudy.train import quiet

    quiet()
    folders, settings = runs_and_settings(what)
    if not folders:
        raise ConfigError(f"{' '.join(what)}: no run's folder among these\n  → segstudy evaluate RUN data.root=…")
    if not retest:
        return evaluate_runs(
            folders, Wanted(settings, data, split, size), Views.parse(tta) if tta else None, save_masks, json
        )
    options = {"--data": data, "--split": split, "--tta": tta, "--save-masks": save_masks, "--json": json}
    if clash := [flag for flag, value in options.items() if value] + ["--size"] * (size != "train"):
        raise ConfigError(f"--retest is the run's own test, without {' '.join(clash)}")
    retest_runs(folders, settings)


def retest_runs(folders: list[Path], settings: list[str]) -> None:
    """Test runs as their training did, one after the other."""
    from segstudy.inference.evaluate import retest
    from segstudy.study.table import print_classes

    for folder in folders:
        console.rule(f"[bold]{folder.name}")
        record, line = retest(folder, settings)
        print_classes(record, console)
        console.print(
            f"{line}\nreplaced: {folder / 'test'}, and the figures of {folder / 'record.json'}", soft_wrap=True
        )


def evaluate_runs(folders: list[Path], wanted: Any, views: Any, masks: Path | None, file: Path | None) -> None:
    """Evaluate runs together, print what came out, and save what is asked for."""
    from segstudy.callbacks.counts import figures
    from segstudy.inference import evaluate as tests
    from segstudy.inference.runs import config_of, open_data, open_members
    from segstudy.study.table import print_classes

    members = open_members(folders)
    cfg = config_of(members, wanted)
    dataset = open_data(cfg, members, wanted)
    images, device = dataset.roles["report"], tests.device_line(cfg)
    at = "original size" if wanted.size == "original" else "×".join(map(str, dataset.size))
    console.print(f"{len(images)} images of {dataset.name} {images.name!r} at {at}; {device}", highlight=False)
    for line in tests.trained_on(dataset, members):
        console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)
    counts = tests.evaluate(members, cfg, dataset, views, masks)
    rows = {
        name: figures(c, dataset.classes) | {"confusion": {s: m.tolist() for s, m in c.items()}}
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
        tests.write_json(rows, about | {"views": views and vars(views), "own_test": lines, "device": device}, file)
