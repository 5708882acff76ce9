"""The HTML page of a study's report. It loads nothing, so it opens offline."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segstudy.formatting import format_number
from segstudy.runs.headline import training_size
from segstudy.runs.tables import command
from segstudy.study.analysis.findings import Findings, Group, Variant
from segstudy.study.analysis.significance import MARK
from segstudy.study.report import plots
from segstudy.study.report.methods import cited, methods
from segstudy.study.report.pictures import GroupPictures, variants_shown
from segstudy.study.report.render import render
from segstudy.study.report.text import ROLES, count_distinct, has_one_seed

PICTURE_WIDTH, SMALL_HEIGHT = 1600, 160

CAPTIONS = {
    "outcomes": "Object outcomes: shares of the objects.",
    "distributions": "Distributions over the objects: the share of an object that was found (predicted as any class "
    "but background), and the share of its most frequent label. Dashed: limits between the outcomes.",
    "operating_spilled": "Operating curves: the background logit is shifted at test time. Large point: the network as "
    "trained. Networks on the same curve differ only in their operating point.",
    "operating_hallucinated": "The same with hallucinated pixels: predicted as a class that is not in the image.",
    "learning": "Validation mIoU of all classes over the epochs. Thin lines: single trainings; thick: their mean.",
    "reliability": "Reliability diagram: accuracy against confidence. Below the dashed line: overconfident.",
}


class Embedded(NamedTuple):
    """A plot (SVG) or a picture as a data URI, with its size in px. name: file name of a plot, without suffix."""

    uri: str
    caption: str
    width: int
    height: int
    name: str = ""


@dataclass(frozen=True)
class Section:
    """A group of variants with its plots and pictures.

    shown: the variants of the first screen. images, examples: those of `pictures`, for the page; sheets: its large
    pictures for which there is room.
    """

    number: int
    group: Group
    pictures: GroupPictures
    plots: Mapping[str, Embedded]
    shown: Sequence[Variant]
    images: Mapping[str, Sequence[Embedded]]
    examples: Mapping[str, Mapping[str, Embedded]]
    sheets: Sequence[Embedded]


def make_section(group: Group, number: int, folder: Path, held: GroupPictures, budget: int) -> tuple[Section, int]:
    """A group's section, with the plots written to `folder`, and the bytes of its large pictures, at most `budget`."""
    names = variants_shown(group, [v.name for v in group.variants])
    images = {
        row: [_picture(f"{name}, {row}", _small(array)) for name, array in zip(held.names, arrays, strict=True)]
        for row, arrays in held.rows.items()
    }
    examples = {
        variant: {outcome: _picture(f"{outcome}: {e.words}", e.picture) for outcome, e in of_variant.items()}
        for variant, of_variant in held.examples.items()
    }
    sheets, used = [], 0
    for caption, array in held.sheets.items():
        sheet = _picture(caption, array)
        if used + len(sheet.uri) <= budget:
            used += len(sheet.uri)
            sheets.append(sheet)
    shown = [v for v in group.variants if v.name in names]
    return Section(number, group, held, draw_plots(group, number, folder), shown, images, examples, sheets), used


def draw_plots(group: Group, number: int, folder: Path) -> dict[str, Embedded]:
    """Write the group's plots as files; returns them for the page."""
    drawn = {}
    for name, figure in plots.draw_all(group).items():
        stem = folder / f"{number}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        plots.save(figure, stem)
        svg = plots.follow_theme(stem.with_suffix(".svg").read_text(encoding="utf-8"))
        # The plots have the width of a journal's column; the page has more room.
        width, height = (round(inches * 96 * 1.3) for inches in figure.get_size_inches())
        drawn[name] = Embedded(_uri("svg+xml", svg.encode()), _caption(name, group), width, height, stem.name)
    return drawn


def _caption(name: str, group: Group) -> str:
    if name in CAPTIONS:
        return CAPTIONS[name]
    text = (
        f"Planned differences of the {group.miou_name}. Wide bars: interval corrected for the number of planned "
        "comparisons; it decides the verdict. Thin lines: plain 95 % interval."
    )
    if any(has_one_seed(group, d) for d in group.differences):
        text += " Hatched: only one training of a variant; this compares two trained networks, not the variants."
    if math.isfinite(group.margin):
        text += f" Grey band: differences within ±{format_number(group.margin)} count as equal."
    return text


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _small(array: np.ndarray) -> np.ndarray:
    """A picture reduced to SMALL_HEIGHT; label maps keep their colours."""
    height, width = array.shape[:2]
    if height <= SMALL_HEIGHT:
        return array
    image = Image.fromarray(np.ascontiguousarray(array))
    way = Image.Resampling.LANCZOS if image.getcolors(256) is None else Image.Resampling.NEAREST
    return np.asarray(image.resize((round(width * SMALL_HEIGHT / height), SMALL_HEIGHT), way))


def _picture(caption: str, array: np.ndarray) -> Embedded:
    """RGB uint8 (H,W,3) as PNG if it has few colours (label maps), else as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(array))
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
    paragraphs = methods(findings)
    return render(
        "report.html", findings=findings, sections=sections, methods=paragraphs, references=cited(paragraphs),
        mark=MARK, outcome_colors=plots.OUTCOME_COLORS, theme=plots.THEME, provenance=provenance, commands=commands,
    )  # fmt: skip


def provenance(group: Group) -> dict[str, list[str]]:
    """Seeds, data, machine and versions of a group's runs; where runs differ, each value with its run count."""
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
    """Data, training, machine and versions in one run's record."""
    data, origin = record.get("data", {}), str(record.get("encoder_weights") or "")
    roles = {
        ROLES.get(role, role): f"{part.get('images')} images of {part.get('split')}, {part.get('fingerprint')}"
        for role, part in data.get("roles", {}).items()
        if part
    }
    return {
        "data": " ".join(filter(None, [data.get("name"), data.get("protocol")])),
        "size": training_size(data).removeprefix("at "),
        "errors measured at": record.get("measured_at"),
        **roles,
        "checkpoint": record.get("checkpoint"),
        "encoder from": origin if "(" in origin else Path(origin).name,
        **{key: record.get(key) for key in ("epochs", "steps", "device")},
        "machine": ", ".join(f"{name} {value}" for name, value in record.get("machine", {}).items()),
        **record.get("versions", {}),
        "commit": record.get("git"),
    }


def commands(group: Group) -> list[str]:
    return [text for v in group.variants for r in v.records if (text := command(r))]
