"""The page of a study's report, which opens offline."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from segstudy.console import (
    format_amount,
    format_duration,
    format_fraction,
    format_interval,
    format_millions,
    format_signed,
)
from segstudy.measures.objects import OUTCOMES
from segstudy.runs.tables import command
from segstudy.study.analysis.findings import Difference, Findings, Group, Variant
from segstudy.study.analysis.significance import MARK
from segstudy.study.report import plots
from segstudy.study.report.markdown import explanations
from segstudy.study.report.methods import CLAIMS_NOTE, cited, methods
from segstudy.study.report.text import (
    ROLES,
    count_distinct,
    format_estimate,
    format_outcomes,
    format_verdict,
    has_one_seed,
    main_metric,
    mean_over_runs,
    metric_label,
    shorten,
    variant_marks,
    verdicts_of,
)

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


@dataclass(frozen=True)
class Plot:
    """A plot on the page: its file's name, the SVG as a data URI, its caption, width in px."""

    name: str
    uri: str
    caption: str
    width: int


@dataclass(frozen=True)
class Picture:
    """A picture on the page as a data URI, and its size in px."""

    caption: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """A group of variants as the page shows it."""

    number: int
    group: Group
    plots: Mapping[str, Plot]
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    pictures_left_out: int = 0


def draw_plots(group: Group, number: int, folder: Path) -> dict[str, Plot]:
    """Write the group's plots, and keep them for the page."""
    drawn = {}
    for name, figure in plots.draw_all(group).items():
        stem = folder / f"{number}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        plots.save(figure, stem)
        svg = plots.follow_theme(stem.with_suffix(".svg").read_text(encoding="utf-8"))
        # A page is wider than a column of a journal.
        width = round(figure.get_figwidth() * 96 * 1.3)
        drawn[name] = Plot(stem.name, _uri("svg+xml", svg.encode()), _caption(name, group), width)
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
        text += f" Grey band: differences within ±{format_fraction(group.margin)} count as equal."
    return text


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def embed_pictures(named: Sequence[tuple[str, np.ndarray]], budget: int) -> tuple[dict[str, list[Picture]], int, int]:
    """Pictures by section within `budget` bytes; how many found no room; the bytes used."""
    shown: dict[str, list[Picture]] = {}
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


def _picture(caption: str, array: np.ndarray) -> Picture:
    """RGB uint8 (H,W,3) as PNG where it has few colours (label maps), else as JPEG."""
    image = Image.fromarray(array)
    if image.width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(image.height * PICTURE_WIDTH / image.width)), Image.Resampling.BOX)
    file = io.BytesIO()
    if image.getcolors(256) is not None:
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(file, "png", optimize=True)
        return Picture(caption, _uri("png", file.getvalue()), image.width, image.height)
    image.save(file, "jpeg", quality=82, optimize=True)
    return Picture(caption, _uri("jpeg", file.getvalue()), image.width, image.height)


def page(findings: Findings, sections: Sequence[Section]) -> str:
    """The report as HTML that loads nothing: names and errors are the user's words and are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    functions = [
        commands, common_confusions, explanations, format_amount, format_duration, format_estimate, format_fraction,
        format_interval, format_millions, format_outcomes, format_signed, format_verdict, has_one_seed, is_significant,
        mean_over_runs, metric_label, metric_names, most_changed_classes, provenance, shorten, variant_marks,
        verdicts_of,
    ]  # fmt: skip
    named = {function.__name__: function for function in functions}
    environment.filters |= named
    environment.globals |= named | {
        "mark": MARK, "outcome_colors": plots.OUTCOME_COLORS, "outcome_names": OUTCOMES, "section_titles": SECTIONS,
        "theme": plots.THEME, "claims_note": CLAIMS_NOTE,
    }  # fmt: skip
    template = environment.from_string(
        files("segstudy.study.report").joinpath("report.html").read_text(encoding="utf-8")
    )
    told = methods(findings)
    return template.render(findings=findings, sections=sections, methods=told, references=cited(told))


def most_changed_classes(group: Group, most: int = 5) -> list[tuple[Difference, list[tuple[str, float]]]]:
    """For each planned difference, the supported classes whose IoU changed most."""
    by_name = {v.name: np.asarray(v.class_iou, float) for v in group.variants}
    found = []
    for d in group.differences:
        if d.metric != main_metric(group) or d.a not in by_name or d.b not in by_name:
            continue
        delta = by_name[d.b] - by_name[d.a]
        known = [c for c in range(len(group.classes)) if group.supported[c] and math.isfinite(delta[c])]
        known.sort(key=lambda c: -abs(delta[c]))
        if known:
            found.append((d, [(group.classes[c], float(delta[c])) for c in known[:most]]))
    return found


def common_confusions(group: Group, most: int = 10) -> list[tuple[str, str, list[float | None]]]:
    """The most frequent confusions (truth, prediction) over the variants, with their shares of the truth's pixels."""
    held = [{(t, p): s for t, p, s in v.confused if math.isfinite(s)} for v in group.variants]
    pairs = {pair: max(h.get(pair, 0.0) for h in held) for h in held for pair in h}
    top = sorted(pairs, key=lambda pair: -pairs[pair])[:most]
    return [(truth, predicted, [h.get((truth, predicted)) for h in held]) for truth, predicted in top]


def metric_names(group: Group) -> list[str]:
    """Names of the variants' metrics, without time to accuracy, which has its own table."""
    names = dict.fromkeys(name for v in group.variants for name in v.metrics)
    return [name for name in names if not name.endswith("_to_90")]


def is_significant(group: Group, variant: Variant, metric: str) -> bool:
    """Whether a planned difference of this variant in the metric is significant at a false discovery rate of 10 %."""
    return any(b == variant.name and metric in names for (_, b), names in group.significant.items())


def provenance(group: Group) -> list[tuple[str, list[str]]]:
    """Data, machine, versions and seeds of a group's runs; several values, with counts, where runs differ."""
    records = [r for v in group.variants for r in v.records]
    told: dict[str, list[str]] = {}

    def note(name: str, value: object) -> None:
        if value not in (None, "", [], {}):
            told.setdefault(name, []).append(str(value))

    for r in records:
        data, machine = r.get("data", {}), r.get("machine", {})
        note("data", " ".join(filter(None, [data.get("name"), data.get("protocol")])))
        note("size", "×".join(map(str, data.get("size", ()))))
        for role, part in data.get("roles", {}).items():
            if part:
                listed = f"{part.get('images')} images of {part.get('split')}, {part.get('fingerprint')}"
                note(ROLES.get(role, role), listed)
        note("checkpoint", r.get("checkpoint"))
        origin = str(r.get("encoder_weights") or "")
        note("encoder from", origin if "(" in origin else Path(origin).name)
        note("epochs", r.get("epochs"))
        note("steps", r.get("steps"))
        note("device", r.get("device"))
        note("machine", ", ".join(f"{k} {v}" for k, v in machine.items()))
        for package, version in r.get("versions", {}).items():
            note(package, version)
        note("commit", r.get("git"))
    seeds = {v.name: ", ".join(map(str, v.seeds)) for v in group.variants if len(v.seeds)}
    alike = len(set(seeds.values())) == 1 and len(seeds) == len(group.variants)
    said = [f"{next(iter(seeds.values()))} of each variant"] if alike else [f"{n}: {text}" for n, text in seeds.items()]
    return [("seeds", said), *((name, count_distinct(values)) for name, values in told.items())]


def commands(group: Group) -> list[str]:
    """The command of each run."""
    return [told for v in group.variants for r in v.records if (told := command(r))]
