"""Renders the report's templates. Names and errors come from users: HTML escapes them itself, Markdown with `md`."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from segstudy.formatting import format_duration, format_interval, format_millions, format_number
from segstudy.study.report import tables, text

environment = Environment(
    loader=PackageLoader("segstudy.study.report"), autoescape=select_autoescape(), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
environment.filters |= {
    "duration": format_duration, "millions": format_millions, "number": format_number,
    "marks": text.variant_marks, "md": text.escape_markdown, "outcomes": text.format_outcomes,
    "trainings": text.trainings,
}  # fmt: skip
environment.globals |= {
    "claims_note": text.CLAIMS_NOTE, "interval": format_interval, "markdown_list": text.markdown_list,
    "markdown_table": text.markdown_table, "mean": text.mean_over_runs, "one_seed": text.has_one_seed,
    "tables": tables, "verdict": text.format_verdict, "verdicts_of": text.verdicts_of,
}  # fmt: skip


def render(template: str, **values: object) -> str:
    """Render a file of `templates/`."""
    return environment.get_template(template).render(values)
