"""How a study was done, as a paragraph for a paper, with what it cites."""

import math
from collections.abc import Sequence

from segstudy.console import format_fraction
from segstudy.study.analysis.findings import Findings, Group
from segstudy.study.report.text import count_distinct

REFERENCES = {
    "everingham": (
        "Everingham et al., 2010",
        "M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman. The Pascal Visual Object Classes (VOC) "
        "challenge. International Journal of Computer Vision 88(2), 303–338, 2010.",
    ),
    "hampel": (
        "Hampel, 1974",
        "F. R. Hampel. The influence curve and its role in robust estimation. Journal of the American Statistical "
        "Association 69(346), 383–393, 1974.",
    ),
    "satterthwaite": (
        "Satterthwaite, 1946",
        "F. E. Satterthwaite. An approximate distribution of estimates of variance components. Biometrics Bulletin "
        "2(6), 110–114, 1946.",
    ),
    "bouthillier": (
        "Bouthillier et al., 2021",
        "X. Bouthillier et al. Accounting for variance in machine learning benchmarks. Proceedings of Machine Learning "
        "and Systems 3, 2021.",
    ),
    "dunn": (
        "Dunn, 1961",
        "O. J. Dunn. Multiple comparisons among means. Journal of the American Statistical Association 56(293), 52–64, "
        "1961.",
    ),
    "schuirmann": (
        "Schuirmann, 1987",
        "D. J. Schuirmann. A comparison of the two one-sided tests procedure and the power approach for assessing the "
        "equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15, 657–680, 1987.",
    ),
    "bernhard": (
        "Bernhard et al., 2024",
        "M. Bernhard, R. Amoroso, Y. Kindermann, L. Baraldi, R. Cucchiara, V. Tresp, M. Schubert. What's outside the "
        "intersection? Fine-grained error analysis for semantic segmentation beyond IoU. WACV, 2024.",
    ),
    "cheng": (
        "Cheng et al., 2021",
        "B. Cheng, R. Girshick, P. Dollár, A. C. Berg, A. Kirillov. Boundary IoU: improving object-centric image "
        "segmentation evaluation. CVPR, 2021.",
    ),
    "csurka": (
        "Csurka et al., 2013",
        "G. Csurka, D. Larlus, F. Perronnin. What is a good evaluation measure for semantic segmentation? BMVC, 2013.",
    ),
    "guo": (
        "Guo et al., 2017",
        "C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On calibration of modern neural networks. ICML, 2017.",
    ),
}
"""Short form in the text, and the work itself."""

METRIC_SOURCES = {"boundary_iou": ("Boundary IoU", "cheng"), "boundary_f": ("the boundary F measure", "csurka")}

CLAIMS_NOTE = (
    "Declared before the runs. In brackets: the plain 95 % interval, then the one that decides, corrected for the "
    "number of claims (Bonferroni). A claim on the mIoU of a planned pair takes the interval of that pair's verdict."
)


def methods(findings: Findings) -> list[str]:
    """Paragraphs: how the variants of each group were trained, then how the figures and verdicts were made."""
    if not any(g.variants for g in findings.groups):
        return []
    told = [_training(g) for g in findings.groups if g.variants]
    return [*dict.fromkeys(told), _metrics(findings.groups), _statistics(findings.groups)]


def cited(paragraphs: Sequence[str]) -> list[str]:
    """The works that the paragraphs name, by their first author."""
    text = " ".join(paragraphs)
    return [work for short, work in sorted(REFERENCES.values()) if short in text]


def _cite(*keys: str) -> str:
    return "(" + "; ".join(REFERENCES[key][0] for key in keys) + ")"


def _training(group: Group) -> str:
    """One sentence or two of a group's data and budget."""
    records = [r for v in group.variants for r in v.records]
    described = [r["data"] for r in records if "data" in r]
    where = ""
    if described:
        data = described[0]
        fit = count_distinct([f"{d['roles']['fit']['images']:,}" for d in described if "fit" in d.get("roles", {})])
        size = "×".join(map(str, data.get("size", ())))
        where = f" on {' or '.join(fit)} images of {data['name']} at {size} pixels" if fit else f" on {data['name']}"
    seeds = [max(len(v.seeds), v.miou.seeds) for v in group.variants]
    often = {1: "once", 2: "twice"}.get(seeds[0], f"{seeds[0]} times") if len(set(seeds)) == 1 else ""
    often = often or f"{min(seeds)} to {max(seeds)} times"
    count = f"{len(group.variants)} variant{'s' * (len(group.variants) > 1)}"
    clusters = f" ({group.clusters:,} independent groups)" if group.clusters != group.images else ""
    seeded = "" if max(seeds) < 2 else " with different seeds"
    text = (
        f"{group.title}: {count} {'were' if len(group.variants) > 1 else 'was'} trained{where}, each {often}{seeded}, "
    )
    text += f"and reported on {group.images:,} images{clusters}."
    if any(r.get("selected_on_reported") for r in records):
        return (
            text
            + " Some checkpoints were chosen on the reported images, which makes their figures optimistic (marked *)."
        )
    chosen = {r.get("checkpoint") for r in records} - {None}
    return text + (" The last checkpoint was reported: nothing was selected." if chosen == {"last"} else "")


def _metrics(groups: Sequence[Group]) -> str:
    """What was measured, and after whom."""
    least = " or ".join(str(n) for n in sorted({g.min_images for g in groups}))
    none = " (all with truth where there are none, and then no verdicts)" * any(not g.supported.any() for g in groups)
    text = (
        f"mIoU is the mean over a fixed set of classes, those with truth in at least {least} of the reported "
        f"images{none}, of the intersection over union of pixels counted over all images {_cite('everingham')}; "
        "ignored pixels count nowhere. "
    )
    variants = [v for g in groups for v in g.variants]
    if any(v.outcomes for v in variants):
        text += (
            "An object is an 8-connected component of one class's truth of at least 0.2 % of the counted pixels; it is "
            "missed if less than 25 % of it is found, else mixed if its most frequent label has less than 80 % of what "
            "is found, else of a wrong label, else partial if less than 75 % is found, else right. "
        )
    if any(v.offsets for v in variants):
        text += "Operating curves shift the background's logit at test time. "
    named = {name for v in variants for name in v.metrics}
    for metric, (what, key) in METRIC_SOURCES.items():
        text += f"{what[0].upper()}{what[1:]} follows {REFERENCES[key][0]}. " if metric in named else ""
    if any("extent" in name for name in named):
        text += f"Error pixels are assigned to boundary, extent and segment {_cite('bernhard')}. "
    if any(v.reliability for v in variants):
        text += f"Calibration is that of the predicted label {_cite('guo')}. "
    return text.strip()


def _statistics(groups: Sequence[Group]) -> str:
    """Intervals and verdicts."""
    over = "groups of images that belong together" if any(g.clusters != g.images for g in groups) else "images"
    text = (
        f"Intervals are of 95 %: the variance over {over}, from the influence function of the ratio {_cite('hampel')}, "
        f"plus the variance over seeds {_cite('bouthillier')}, with a t quantile {_cite('satterthwaite')}. "
    )
    if any(g.paired for g in groups):
        text += "Differences were taken seed by seed, the seeds sharing initial weights and the order of the data. "
    if not any(g.differences for g in groups):
        return text.strip()
    margins = " or ".join(sorted({f"±{format_fraction(g.margin)}" for g in groups if math.isfinite(g.margin)}))
    equal = f", equal if it lies within {margins} {_cite('schuirmann')}" if margins else ""
    text += (
        "The intervals of the differences planned beforehand hold simultaneously with 95 % (Bonferroni, with t "
        f"quantiles of each difference's own degrees of freedom {_cite('dunn')}); a difference is called better or "
        f"worse if this interval leaves out 0{equal}, and undecided otherwise. "
    )
    if any(max(len(v.seeds), v.miou.seeds) < 2 for g in groups for v in g.variants):
        text += (
            "A variant with one training is said to be ahead or behind: this compares two networks, not the variants. "
        )
    return text + "Single classes get no verdicts."
