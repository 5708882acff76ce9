"""Text of estimates, verdicts and names in a report: HTML, Markdown, LaTeX."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from segstudy.formatting import NOT_DEFINED, format_interval, format_percent, format_signed
from segstudy.measures.objects import FOUND_AT_ALL, FOUND_WHOLE, PURE, SMALLEST
from segstudy.study.analysis.findings import Difference, Group, Variant

ROLES = {"fit": "trained on", "select": "chosen on", "report": "reported on"}

SPILLED = "spilled"

LEAST, MOST, ONE_LABEL = map(format_percent, (FOUND_AT_ALL, FOUND_WHOLE, PURE))

OUTCOME_WORDS = {
    "right": ("right", f"at least {MOST} of the object is found, and {ONE_LABEL} of that has the right label"),
    "partial": ("partly found", f"{LEAST} to {MOST} of the object is found, with the right label"),
    "mixed": ("mixed labels", f"the object is found, but no label covers {ONE_LABEL} of the found part"),
    "wrong label": ("wrong label", "the object is found, but as another class"),
    "missed": ("missed", f"less than {LEAST} of the object is found: the rest is predicted as background"),
    SPILLED: ("spilled", "share of the background that is predicted as an object (false-positive rate)"),
}
"""Outcome → its words, and its definition."""

VERDICT_WORDS = {
    "better": "better than", "worse": "worse than", "equal": "equal to", "undecided": "undecided vs",
    "ahead": "ahead of", "behind": "behind",
}  # fmt: skip

MIOU_WORDS = "overlap of prediction and truth (intersection over union), mean over the classes; 1 is perfect"

OBJECT_WORDS = (
    f"An object is a connected area of one class in the truth, of {format_percent(SMALLEST)} of the image or more. "
    "Found: predicted as any class but background."
)

CLAIMS_NOTE = (
    "Declared before the runs. In brackets: the plain 95 % interval, then the interval corrected for the number of "
    "claims (Bonferroni), which decides. A claim on the mIoU of a planned pair uses that pair's interval."
)

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "…": r"\ldots{}", "±": r"$\pm$", "Δ": r"$\Delta$",
    "×": r"$\times$", "→": r"$\to$", "–": "--",
}  # fmt: skip


def trainings(variant: Variant) -> int:
    """The number of a variant's trainings. Their folders need not exist on this machine."""
    return max(len(variant.seeds), variant.miou.seeds)


def has_one_seed(group: Group, difference: Difference) -> bool:
    """Whether one of the two variants has only one training: then two trained networks are compared, not variants."""
    sides = (difference.a, difference.b)
    return any(trainings(v) < 2 for v in group.variants if v.name in sides)


def format_verdict(difference: Difference) -> str:
    """better +0.016 (0.005 to 0.027), equal +0.001 (−0.002 to 0.004), or ahead +0.016 (0.005 to 0.027); n/a."""
    return f"{difference.verdict} {verdict_size(difference)}" if math.isfinite(difference.delta) else NOT_DEFINED


def verdict_size(d: Difference) -> str:
    """+0.016 (0.005 to 0.027), with the interval that decides the verdict; n/a."""
    return f"{format_signed(d.delta)} {format_interval(d.wide_low, d.wide_high)}".strip()


def verdicts_of(group: Group, variant: Variant) -> list[Difference]:
    """The planned differences of this variant against another."""
    return [d for d in group.differences if d.b == variant.name]


def variant_marks(variant: Variant) -> str:
    """* if selected on the reported split; ! if ImageNet weights were asked for but not available."""
    selected = any(r.get("selected_on_reported") for r in variant.records)
    random = any("(" in str(r.get("encoder_weights", "")) for r in variant.records)
    return "*" * selected + "!" * random


def mean_over_runs(variant: Variant, key: str) -> float | None:
    """The mean of a record's entry over a variant's trainings; None if no record has it."""
    noted = [float(r[key]) for r in variant.records if isinstance(r.get(key), int | float)]
    values = [value for value in noted if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def count_distinct(values: Sequence[str]) -> list[str]:
    """Each value once, in order; where values differ, with its number of runs."""
    counted = Counter(values)
    if len(counted) < 2:
        return list(counted)
    return [f"{value} ({n} run{'s' * (n > 1)})" for value, n in counted.items()]


def own_words(names: Sequence[str]) -> dict[str, str]:
    """{name: the name without the leading words that all names share}; whole names where one would lose all words."""
    words = [name.split(" ") for name in names]
    shared = 0
    while len(words) > 1 and all(len(w) > shared + 1 and w[shared] == words[0][shared] for w in words):
        shared += 1
    return {name: " ".join(w[shared:]) for name, w in zip(names, words, strict=True)}


def shorten(name: str, length: int) -> str:
    """At most `length` printable characters on one line; a longer name loses its middle, marked with …."""
    name = "".join(c for c in " ".join(name.split()) if c.isprintable())
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return f"{name[: length - 1 - end]}…{name[len(name) - end :]}"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX_ESCAPES.get(c, c) for c in " ".join(text.split()) if c.isprintable())


def escape_markdown(text: str) -> str:
    """Text that Markdown prints as it is, also in a table's cell."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]|~#!])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def outcome_share(variant: Variant, outcome: str) -> float:
    """The share of the objects with this outcome, or of the background that is spilled; NaN if not defined."""
    spilled = variant.metrics.get(SPILLED) if outcome == SPILLED else None
    return variant.outcomes.get(outcome, math.nan) if spilled is None else spilled.value


def outcomes_shown(variants: Iterable[Variant]) -> list[str]:
    """The outcomes that at least one of the variants has, at 0.5 % or more."""
    shares = {name: [outcome_share(v, name) for v in variants] for name in OUTCOME_WORDS}
    return [name for name, values in shares.items() if any(value >= 0.005 for value in values)]


def format_outcomes(variant: Variant) -> str:
    """right 62 %, partly found 10 %, …; n/a where no object was counted."""
    shares = {words: outcome_share(variant, name) for name, (words, _) in OUTCOME_WORDS.items()}
    return ", ".join(f"{w} {format_percent(x)}" for w, x in shares.items() if math.isfinite(x)) or NOT_DEFINED


def full_name(variant: Variant) -> str:
    """v3: v2 + ASPP, with the variant's marks."""
    name = variant.name + variant_marks(variant)
    return f"{name}: {variant.title}" if variant.title else name


def markdown_list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {escape_markdown(line)}" for line in lines)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])
