"""Renders the templates of reports and model cards. Names and errors come from users: HTML escapes them itself,
Markdown with `md`."""

import json
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from segstudy.formatting import (
    counted,
    format_duration,
    format_interval,
    format_millions,
    format_number,
    format_percent,
)
from segstudy.runs.headline import headline_words, training_size
from segstudy.study.report import tables, text

environment = Environment(
    loader=PackageLoader("segstudy.study.report"), autoescape=select_autoescape(), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
environment.filters |= {
    "duration": format_duration, "millions": format_millions, "number": format_number, "percent": format_percent,
    "marks": text.variant_marks, "md": text.escape_markdown, "outcomes": text.format_outcomes,
    "shorten": text.shorten, "trainings": text.trainings, "quote": shlex.quote, "repr": repr,
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "code": lambda value: f"`{str(value).replace('`', '')}`",
}  # fmt: skip
environment.globals |= {
    "claims_note": text.CLAIMS_NOTE, "counted": counted, "headline_words": headline_words,
    "training_size": training_size, "interval": format_interval, "markdown_list": text.markdown_list,
    "markdown_table": text.markdown_table, "mean": text.mean_over_runs, "miou_words": text.MIOU_WORDS,
    "object_words": text.OBJECT_WORDS, "outcome_share": text.outcome_share, "outcome_words": text.OUTCOME_WORDS,
    "outcomes_shown": text.outcomes_shown, "tables": tables, "verdict_size": text.verdict_size,
    "verdict_words": text.VERDICT_WORDS, "verdicts_of": text.verdicts_of,
}  # fmt: skip


def render(template: str, **values: object) -> str:
    """Render a file of `templates/`."""
    return environment.get_template(template).render(values)
