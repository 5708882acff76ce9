"""The methods section of a report: how the study was done, and the cited works."""

import math
from collections.abc import Sequence

from segstudy.formatting import format_number
from segstudy.runs.headline import headline_size, training_size
from segstudy.study.analysis.findings import Findings, Group
from segstudy.study.report.render import render
from segstudy.study.report.text import count_distinct

REFERENCES = {
    "Bernhard et al., 2024": "M. Bernhard, R. Amoroso, Y. Kindermann, L. Baraldi, R. Cucchiara, V. Tresp, M. Schubert. "
    "What's outside the intersection? Fine-grained error analysis for semantic segmentation beyond IoU. WACV, 2024.",
    "Bouthillier et al., 2021": "X. Bouthillier et al. Accounting for variance in machine learning benchmarks. "
    "Proceedings of Machine Learning and Systems 3, 2021.",
    "Cheng et al., 2021": "B. Cheng, R. Girshick, P. Dollár, A. C. Berg, A. Kirillov. Boundary IoU: improving "
    "object-centric image segmentation evaluation. CVPR, 2021.",
    "Csurka et al., 2013": "G. Csurka, D. Larlus, F. Perronnin. What is a good evaluation measure for semantic "
    "segmentation? BMVC, 2013.",
    "Dunn, 1961": "O. J. Dunn. Multiple comparisons among means. Journal of the American Statistical Association "
    "56(293), 52–64, 1961.",
    "Everingham et al., 2010": "M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman. The Pascal "
    "Visual Object Classes (VOC) challenge. International Journal of Computer Vision 88(2), 303–338, 2010.",
    "Guo et al., 2017": "C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On calibration of modern neural networks. "
    "ICML, 2017.",
    "Hampel, 1974": "F. R. Hampel. The influence curve and its role in robust estimation. Journal of the American "
    "Statistical Association 69(346), 383–393, 1974.",
    "Satterthwaite, 1946": "F. E. Satterthwaite. An approximate distribution of estimates of variance components. "
    "Biometrics Bulletin 2(6), 110–114, 1946.",
    "Schuirmann, 1987": "D. J. Schuirmann. A comparison of the two one-sided tests procedure and the power approach "
    "for assessing the equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15, "
    "657–680, 1987.",
}
"""Short form in the text → reference, in alphabetical order."""


def methods(findings: Findings) -> list[str]:
    """Paragraphs: how the variants of each group were trained, then how metrics and verdicts were computed."""
    groups = findings.groups
    variants = [v for g in groups for v in g.variants]
    if not variants:
        return []
    text = render(
        "methods.txt", groups=groups, variants=variants, metrics={name for v in variants for name in v.metrics},
        where=_where, split=_split, selection=_selection, clustered=any(g.clusters != g.images for g in groups),
        without_verdicts=not all(g.supported.any() for g in groups),
        least=" or ".join(str(n) for n in sorted({g.min_images for g in groups})),
        margins=" or ".join(sorted({f"±{format_number(g.margin)}" for g in groups if math.isfinite(g.margin)})),
    )  # fmt: skip
    # Equal paragraphs appear once.
    return list(dict.fromkeys(" ".join(paragraph.split()) for paragraph in text.split("\n\n")))


def _where(group: Group) -> str:
    """The training data of a group, as far as recorded."""
    described = [r["data"] for v in group.variants for r in v.records if "data" in r]
    if not described:
        return ""
    name = described[0]["name"]
    size = " or ".join(dict.fromkeys(training_size(d, " pixels") for d in described))
    fit = count_distinct([f"{d['roles']['fit']['images']:,}" for d in described if "fit" in d.get("roles", {})])
    protocol = f" ({described[0]['protocol']})" if described[0].get("protocol") else ""
    return f" on {' or '.join(fit)} images of {name}{protocol} {size}" if fit else f" on {name}"


def _split(group: Group) -> str:
    """The split of the reported images, if recorded, and their size unless it is that of the training images."""
    found = {r["data"].get("roles", {}).get("report", {}).get("split") for v in group.variants for r in v.records
             if "data" in r}  # fmt: skip
    original = headline_size(*(r for v in group.variants for r in v.records)) == "original"
    return (f" of {found.pop()!r}" if len(found) == 1 and None not in found else "") + " at original size" * original


def _selection(group: Group) -> str:
    """Which checkpoint was reported, as a sentence."""
    records = [r for v in group.variants for r in v.records]
    if any(r.get("selected_on_reported") for r in records):
        return "Some checkpoints were chosen on the reported images, which makes their results optimistic (marked *)."
    chosen = {r.get("checkpoint") for r in records} - {None}
    return "The last checkpoint was reported; there was no selection." if chosen == {"last"} else ""


def cited(paragraphs: Sequence[str]) -> list[str]:
    text = " ".join(paragraphs)
    return [work for short, work in REFERENCES.items() if short in text]
