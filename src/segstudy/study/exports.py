"""A study's findings for spreadsheets (CSV), papers (LaTeX) and repositories (Markdown)."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from segstudy.study.cells import (
    MISSING,
    NOT_DEFINED,
    amount,
    estimate,
    items,
    latex,
    markdown,
    marks,
    mean_of,
    millions,
    outcome_words,
    share,
    table,
    verdict,
    verdicts_of,
)
from segstudy.study.findings import Findings, Group, Variant
from segstudy.study.methods import CLAIMS_NOTE, cited, methods
from segstudy.study.table import clock

Row = dict[str, object]
HEAD = ("variant", "changes", "mIoU (95 %)", "difference", "objects", "parameters", "GFLOP", "images/s", "time")
LATEX_COLUMNS = (0, 2, 3, 5, 6, 7)
NOTED = (
    "parameters", "gflop", "images_per_second", "seconds", "epochs", "steps", "encoder_weights", "device", "git",
    "reproduce",
)  # fmt: skip
RUN_COLUMNS = (
    "group", "variant", "changes", "seed", "folder", "status", "miou_network", "miou_original", "pixel_accuracy",
    *NOTED, "fingerprint", "why",
)  # fmt: skip
CLASS_COLUMNS = ("group", "variant", "class", "images", "supported", "iou")


def run_rows(findings: Findings) -> Iterator[Row]:
    """A row a training, then the runs that could not be used, with why."""
    for group in findings.groups:
        for v in group.variants:
            for i, r in enumerate(v.records):
                network, original = (r.get("metrics", {}).get(size, {}) for size in ("network", "original"))
                yield {
                    "group": group.title, "variant": v.name, "changes": v.changes, "status": r.get("status"),
                    "seed": v.seeds[i] if i < len(v.seeds) else None,
                    "folder": v.folders[i] if i < len(v.folders) else None,
                    "miou_network": network.get("miou"), "miou_original": original.get("miou"),
                    "pixel_accuracy": network.get("pixel_accuracy"), **{key: r.get(key) for key in NOTED},
                    "fingerprint": r.get("data", {}).get("roles", {}).get("report", {}).get("fingerprint"),
                    "why": r.get("error"),
                }  # fmt: skip
    for name, why in findings.left_out:
        yield {"variant": name, "status": "left out", "why": why}


def class_rows(findings: Findings) -> Iterator[Row]:
    """A row for each class and variant."""
    for g in findings.groups:
        for v in g.variants:
            for c, name in enumerate(g.classes):
                yield {
                    "group": g.title, "variant": v.name, "class": name, "images": int(g.class_images[c]),
                    "supported": bool(g.supported[c]), "iou": float(v.class_iou[c]),
                }  # fmt: skip


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Comma-separated, with a header; n/a for NaN, nothing for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(c)) for c in columns] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else NOT_DEFINED
    return "" if value is None else value


def table_rows(group: Group) -> Iterator[list[str]]:
    """The main table as text, in the columns of HEAD."""
    for v in group.variants:
        said = "; ".join(f"{verdict(group, d)} against {d.a}" for d in verdicts_of(group, v))
        yield [
            v.name + marks(v), v.changes, f"{estimate(v.miou)}, {_trainings(v)}", said or MISSING,
            outcome_words(v.outcomes), millions(mean_of(v, "parameters")), amount(mean_of(v, "gflop")),
            amount(mean_of(v, "images_per_second")), clock(mean_of(v, "seconds")),
        ]  # fmt: skip


def _head(group: Group) -> tuple[str, ...]:
    return tuple("as published: mIoU (95 %)" if group.published and h.startswith("mIoU") else h for h in HEAD)


def _trainings(variant: Variant) -> str:
    seeds = max(len(variant.seeds), variant.miou.seeds)
    return f"{seeds} seed{'s' * (seeds != 1)}"


def latex_tables(findings: Findings) -> str:
    """The main table of each group, no wider than the page; needs the packages booktabs and graphicx."""
    parts = [r"% needs \usepackage{booktabs,graphicx}"]
    for number, group in enumerate(findings.groups, 1):
        rows = [" & ".join(latex(row[i]) for i in LATEX_COLUMNS) + r" \\" for row in table_rows(group)]
        there = f" in at least {group.min_images} images" if np.any(group.supported) else ""
        note = f"{latex(group.title)}; mIoU over {int(np.sum(group.scored))} classes with truth{there}, "
        note += r"with its 95\,\% interval."
        parts += [
            r"\begin{table}", r"  \centering", rf"  \caption{{{note}}}", rf"  \label{{tab:study-{number}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            r"  \begin{tabular}{lllrrr}", r"    \toprule",
            "    " + " & ".join(latex(_head(group)[i]) for i in LATEX_COLUMNS) + r" \\", r"    \midrule",
            *(f"    {row}" for row in rows), r"    \bottomrule", r"  \end{tabular}}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts) + "\n"


def seen(group: Group) -> list[tuple[Variant, dict[str, str]]]:
    """What may be behind the figures: how far a variant sees, how it does on training images, how soon it was good."""
    return [(v, sight(v)) for v in group.variants if any("metrics_fit" in r for r in v.records) or group.target > 0]


def sight(variant: Variant) -> dict[str, str]:
    """Its cells, means over the trainings."""
    fields = [f for r in variant.records if (f := r.get("receptive_field"))]
    fits = [m["miou"] for r in variant.records if (m := r.get("metrics_fit"))]
    whole = [f for f in fields if f["theoretical"] is None]
    epochs, seconds = (variant.figures.get(f"{what}_to_90") for what in ("epochs", "seconds"))
    return {
        "can": MISSING if not fields else "whole image" if whole else f"{fields[0]['theoretical']} px",
        "does": amount(float(np.mean([f["effective"] for f in fields])) if fields else None, 0),
        **{f"missed_{s}": share(e.value) if (e := variant.figures.get(f"missed_{s}")) else MISSING
           for s in ("small", "medium", "large")},
        "fit": share(float(np.mean(fits)) if fits else None), "all": share(variant.miou_all.value),
        "epochs": amount(epochs.value if epochs else None), "seconds": amount(seconds.value if seconds else None, 0),
    }  # fmt: skip


SEEN = {
    "can": "can see", "does": "does see, px", "missed_small": "missed: small", "missed_medium": "medium",
    "missed_large": "large", "fit": "training mIoU", "all": "reported", "epochs": "epochs to 90 %",
    "seconds": "seconds",
}  # fmt: skip


def markdown_report(findings: Findings, figures: Sequence[Sequence[tuple[str, str]]]) -> str:
    """The report for a repository's page. figures: of each group, (file's name without its ending, caption)."""
    parts = [f"# {markdown(findings.name)}", markdown(findings.sentence)]
    for group, drawn in zip(findings.groups, figures, strict=True):
        parts += [f"## {markdown(group.title)}", items(group.warnings)]
        if group.variants:
            parts.append(table(_head(group), table_rows(group)))
        if group.claims:
            parts.append(CLAIMS_NOTE)
            parts.append(table(("claim", "outcome", "because"), ([c.text, c.outcome, c.words] for c in group.claims)))
        parts.append(items([d.words for d in group.differences]))
        if rows := seen(group):
            body = ([v.name, *(cells[key] for key in SEEN)] for v, cells in rows)
            parts.append(table(("variant", *SEEN.values()), body))
        parts += [f"![{name}](figures/{name}.svg)\n\n{markdown(caption)}" for name, caption in drawn]
    if findings.left_out:
        parts += ["## Runs that could not be used", table(("run", "why"), findings.left_out)]
    told = methods(findings)
    if told:
        parts += ["## Methods", *map(markdown, told), items(cited(told))]
    return "\n\n".join(filter(None, parts)) + "\n"
