"""The page of a study's report, which opens offline."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segstudy.formatting import format_number
from segstudy.measures.objects import OUTCOMES
from segstudy.runs.tables import command
from segstudy.study.analysis.findings import Findings, Group
from segstudy.study.analysis.significance import MARK
from segstudy.study.report import plots
from segstudy.study.report.methods import cited, methods
from segstudy.study.report.render import render
from segstudy.study.report.text import ROLES, count_distinct, has_one_seed, metric_label

SECTIONS = {
    "objects": "Object outcomes, an example of each",
    "influential": "Most influential images",
    "gallery": "The same images through all variants",
    "worst": "Images with the lowest mIoU",
}
"""A picture's name is `<section>/<caption>`; without one of these it goes to the gallery."""

PICTURE_WIDTH = 1600

CAPTIONS = {
    "outcomes": "Object outcomes. Thick bars: share of objects; thin bars: of their area.",
    "distributions": "Share of each object that was found (predicted as any class but background), and share of the "
    "most frequent label in it. Dashed: the limits between the outcomes (missed, partial, right; mixed).",
    "operating_spilled": "Operating curves: the background's logit is shifted at test time. The large point is the "
    "network as trained. Curves that coincide differ only in their operating point.",
    "operating_hallucinated": "The same against hallucinated pixels: predicted as a class that is not in the image.",
    "learning": "Validation mIoU over the epochs. Thin lines: single trainings; thick: their mean.",
    "classes": "IoU of each class; in brackets, images with it. Grey: too few images for a verdict.",
    "reliability": "Reliability diagram: accuracy against confidence. Below the dashed line: overconfident.",
}


class Embedded(NamedTuple):
    """A plot (SVG) or a picture on the page as a data URI; its size in px. name: of a plot's file."""

    uri: str
    caption: str
    width: int
    height: int
    name: str = ""


@dataclass(frozen=True)
class Section:
    """A group of variants as the page shows it."""

    number: int
    group: Group
    plots: Mapping[str, Embedded]
    pictures: Mapping[str, Sequence[Embedded]] = field(default_factory=dict)
    pictures_left_out: int = 0


def draw_plots(group: Group, number: int, folder: Path) -> dict[str, Embedded]:
    """Write the group's plots, and keep them for the page."""
    drawn = {}
    for name, figure in plots.draw_all(group).items():
        stem = folder / f"{number}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        plots.save(figure, stem)
        svg = plots.follow_theme(stem.with_suffix(".svg").read_text(encoding="utf-8"))
        # A page is wider than a column of a journal.
        width, height = (round(inches * 96 * 1.3) for inches in figure.get_size_inches())
        drawn[name] = Embedded(_uri("svg+xml", svg.encode()), _caption(name, group), width, height, stem.name)
    return drawn


def _caption(name: str, group: Group) -> str:
    if name == "classes" and (there := sum(n > 0 for n in group.class_images)) > plots.MOST_CLASSES:
        return f"{CAPTIONS[name]} Of {there} classes with truth, the {plots.MOST_CLASSES} that differ most."
    if not name.startswith("forest_"):
        return CAPTIONS[name]
    metric = name.removeprefix("forest_")
    rows = [d for d in group.differences if d.metric == metric]
    if metric != group.differences[0].metric:
        return f"The same for {metric_label(metric)}."
    text = (
        "Planned differences. Wide bars: interval corrected for the number of planned comparisons, from which the "
        "verdicts are read. Thin lines: plain 95 % interval."
    )
    if any(has_one_seed(group, d) for d in rows):
        text += " Hatched: one training per variant: this compares two trained networks, not the variants."
    if math.isfinite(group.margin):
        text += f" Grey band: differences within ±{format_number(group.margin)} count as equal."
    return text


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def embed_pictures(named: Sequence[tuple[str, np.ndarray]], budget: int) -> tuple[dict[str, list[Embedded]], int, int]:
    """Pictures by section within `budget` bytes; how many found no room; the bytes used."""
    shown: dict[str, list[Embedded]] = {}
    missing = used = 0
    for name, array in named:
        section, _, caption = name.partition("/")
        if section not in SECTIONS:
            section, caption = "gallery", name
        picture = _picture(caption, array)
        if used + len(picture.uri) > budget:
            missing += 1
            continue
        used += len(picture.uri)
        shown.setdefault(section, []).append(picture)
    return {s: shown[s] for s in SECTIONS if s in shown}, missing, used


def _picture(caption: str, array: np.ndarray) -> Embedded:
    """RGB uint8 (H,W,3) as PNG where it has few colours (label maps), else as JPEG."""
    image = Image.fromarray(array)
    if image.width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)), Image.Resampling.BOX)
    file, kind = io.BytesIO(), "jpeg" if image.getcolors(256) is None else "png"
    if kind == "png":
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(file, kind, optimize=True)
    else:
        image.save(file, kind, quality=82, optimize=True)
    return Embedded(_uri(kind, file.getvalue()), caption, image.width, image.height)


def page(findings: Findings, sections: Sequence[Section]) -> str:
    """The report as HTML that loads nothing."""
    told = methods(findings)
    return render(
        "report.html", findings=findings, sections=sections, methods=told, references=cited(told), mark=MARK,
        outcome_colors=plots.OUTCOME_COLORS, outcome_names=OUTCOMES, theme=plots.THEME, picture_titles=SECTIONS,
        provenance=provenance, commands=commands,
    )  # fmt: skip


def provenance(group: Group) -> dict[str, list[str]]:
    """Data, machine, versions and seeds of a group's runs; several values, with counts, where runs differ."""
    seeds = {v.name: ", ".join(map(str, v.seeds)) for v in group.variants if len(v.seeds)}
    alike = len(set(seeds.values())) == 1 and len(seeds) == len(group.variants)
    noted: dict[str, list[str]] = {}
    for v in group.variants:
        for record in v.records:
            for name, value in _provenance(record).items():
                if value not in (None, ""):
                    noted.setdefault(name, []).append(str(value))
    of_each = [f"{next(iter(seeds.values()))} of each variant"] if alike else [f"{n}: {s}" for n, s in seeds.items()]
    return {"seeds": of_each} | {name: count_distinct(values) for name, values in noted.items()}


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    """What one run's record says of where its figures come from."""
    data, origin = record.get("data", {}), str(record.get("encoder_weights") or "")
    roles = {
        ROLES.get(role, role): f"{part.get('images')} images of {part.get('split')}, {part.get('fingerprint')}"
        for role, part in data.get("roles", {}).items()
        if part
    }
    return {
        "data": " ".join(filter(None, [data.get("name"), data.get("protocol")])),
        "size": "×".join(map(str, data.get("size", ()))),
        **roles,
        "checkpoint": record.get("checkpoint"),
        "encoder from": origin if "(" in origin else Path(origin).name,
        **{key: record.get(key) for key in ("epochs", "steps", "device")},
        "machine": ", ".join(f"{name} {value}" for name, value in record.get("machine", {}).items()),
        **record.get("versions", {}),
        "commit": record.get("git"),
    }


def commands(group: Group) -> list[str]:
    """The command of each run, as far as it was recorded."""
    return [told for v in group.variants for r in v.records if (told := command(r))]
