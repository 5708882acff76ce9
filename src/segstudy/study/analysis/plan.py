"""The plan of a study, declared before it runs: pairs of variants, claims, and the margin of equality."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.errors import ConfigError, DataError, did_you_mean, first_line
from segstudy.files import read_text
from segstudy.study.analysis.metrics import IMAGE_METRICS, METRICS

PER_TRAINING = ("epochs_to_90",)
"""Metrics with one value for a training and none for its images."""

METRIC_NAMES = ("miou", *PER_TRAINING, *IMAGE_METRICS, *(f.name for f in METRICS))

AT = ("trained", "equal_spill")


@dataclass(frozen=True)
class Claim:
    """A statement that the data can support or refute.

    The metric `figure` is lower or higher (direction) in `variant` than in `against`, by more than margin; with
    no_worse: true, it is worse by less than margin. at: "trained"; or "equal_spill", for missed and hallucinated: the
    background logit of `against` is shifted until both networks have the same false-positive rate on background.
    """

    say: str
    figure: str
    variant: str
    against: str
    direction: str
    margin: float = 0.0
    no_worse: bool = False
    at: str = "trained"

    def __post_init__(self) -> None:
        _expect(isinstance(self.say, str) and self.say.strip(), f"say must be a sentence, not {self.say!r}")
        for name, side in (("variant", self.variant), ("against", self.against)):
            _expect(_is_side(side), f"{name} must name a variant, not {side!r}")
        _expect(self.variant != self.against, f"{self.variant!r} is compared with itself")
        _expect(_is_number(self.margin), f"margin must be a number, 0 or more, not {self.margin!r}")
        _expect(isinstance(self.no_worse, bool), f"no_worse must be true or false, not {self.no_worse!r}")
        _expect(self.figure in METRIC_NAMES, f"no metric {self.figure!r}{did_you_mean(self.figure, METRIC_NAMES)}")
        _expect(self.direction in ("lower", "higher"), f"direction must be lower or higher, not {self.direction!r}")
        _expect(self.at in AT, f"at must be one of {', '.join(AT)}, not {self.at!r}")
        comparable = self.at == "trained" or self.figure in ("missed", "hallucinated")
        _expect(comparable, f"at equal spill, only missed and hallucinated can be compared, not {self.figure}")


def _expect(condition: Any, message: str, place: str = "report.claims: ") -> None:
    if not condition:
        raise ConfigError(place + message)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _pair(value: Any) -> tuple[str, str]:
    """A list of two as a tuple. Raises ConfigError for anything else."""
    _expect(isinstance(value, list | tuple) and len(value) == 2, f"{value!r} is not [a, b]", "report.pairs: ")
    return str(value[0]), str(value[1])


def _is_side(value: Any) -> bool:
    """Whether it is a name or settings, or several of these separated by |, none empty."""
    return isinstance(value, str) and all(part.strip() for part in value.split("|"))


@dataclass(frozen=True)
class Plan:
    """The `report` section of a config.

    margin: differences of mIoU within it count as equal. min_images: a class enters the verdicts if at least so many
    images contain it. pair_seeds: take differences seed by seed, since runs of one seed share initial weights and
    batches. pairs: [a, b] each, compares b with a; empty: each variant is compared with the one before it.
    """

    margin: float = 0.005
    min_images: int = 20
    pair_seeds: bool = False
    pairs: Sequence[tuple[str, str]] = ()
    claims: Sequence[Claim] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        in_range = _is_number(self.margin) and self.margin <= 1
        _expect(in_range, f"report.margin={self.margin}: must be a number from 0 to 1", "")
        whole = isinstance(self.min_images, int) and not isinstance(self.min_images, bool) and self.min_images >= 1
        _expect(whole, f"report.min_images={self.min_images}: must be a whole number, 1 or more", "")
        _expect(isinstance(self.pair_seeds, bool), f"report.pair_seeds={self.pair_seeds}: must be true or false", "")
        for a, b in self.pairs:
            _expect(_is_side(a) and _is_side(b), f"[{a!r}, {b!r}] is not two variants", "report.pairs: ")
            _expect(a != b, f"{a!r} is compared with itself", "report.pairs: ")

    @classmethod
    def of(cls, section: Mapping[str, Any] | None) -> "Plan":
        """From plain values. Raises ConfigError for unknown keys and wrong values."""
        given = dict(section or {})
        try:
            pairs = tuple(_pair(pair) for pair in given.pop("pairs", None) or ())
            claims = tuple(Claim(**claim) for claim in given.pop("claims", None) or ())
            return cls(pairs=pairs, claims=claims, **given)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"the config's report section is wrong: {error}\n"
                "  → report: {margin, min_images, pair_seeds, pairs: [[v1, v2], …], claims: [{say, figure, variant, "
                "against, direction}, …]}"
            ) from error

    def sides(self) -> list[str]:
        """All sides of the pairs and claims, each once."""
        claimed = [side for claim in self.claims for side in (claim.against, claim.variant)]
        return list(dict.fromkeys([*(side for pair in self.pairs for side in pair), *claimed]))


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a variant, or the mean of several. name: the variant's, or the plan's text."""

    name: str
    variants: list[str]

    @classmethod
    def of(cls, wanted: str, variants: Mapping[str, Sequence[str]]) -> "Side":
        """The side of the variants that match `wanted`; possibly none."""
        found = matching(wanted, variants)
        words = re.sub(r"\b[\w.]+\.(?=\w+=)", "", wanted).replace("|", " | ")  # decoder.up=nearest → up=nearest
        return cls(found[0] if len(found) == 1 else words, found)


def matching(wanted: str, variants: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the variants (name → changes, model first) that match `wanted`, in their order.

    wanted: a name, a model, or settings that must all be among the changes (loss=ce_dice encoder=resnet50); | separates
    alternatives.
    """
    found = []
    for name, changes in variants.items():
        known = {name, *changes, *(c.rsplit(".", 1)[-1] for c in changes), *(c.removeprefix("model=") for c in changes)}
        for part in wanted.split("|"):
            terms = part.split()
            if part.strip() == name or (terms and all(term in known for term in terms)):
                found.append(name)
                break
    return found


def read_plan(folder: Path) -> Plan:
    """The first `report` section in the configs of a study's runs; the default if there is none.

    Raises DataError for a config that cannot be read: it may hold the plan.
    """
    for file in sorted(folder.glob("*/config.yaml")):
        try:
            section = OmegaConf.to_container(OmegaConf.create(read_text(file))).get("report")  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise DataError(f"{file} cannot be read as a config: {first_line(error)}\n  → remove that run") from error
        if section:
            return Plan.of(section)
    return Plan()


def read_plan_file(name: str) -> Plan:
    """The plan in conf/report/NAME.yaml. Raises ConfigError if there is none."""
    names = sorted(file.stem for file in (CONF / "report").glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"--plan {name}: no file conf/report/{name}.yaml{did_you_mean(name, names)} ({', '.join(names)})"
        )
    return Plan.of(OmegaConf.to_container(compose_config([f"report={name}"]).report))  # type: ignore[arg-type]
