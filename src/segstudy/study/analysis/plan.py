"""The plan of a study, declared before it runs: pairs of variants, claims, and the margin of equality."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import AfterValidator, Field

from segstudy.config.compose import compose_config
from segstudy.config.paths import CONF
from segstudy.config.run_folder import stored_config
from segstudy.errors import ConfigError, DamagedFile, did_you_mean
from segstudy.ranges import TWO, Count, NotNegative, Probability, Text, mistaken, rule, shown, signature_of
from segstudy.study.analysis.metrics import IMAGE_METRICS, METRICS

PER_TRAINING = ("epochs_to_90",)
"""Metrics with one value for a training and none for its images."""

METRIC_NAMES = ("miou", *PER_TRAINING, *IMAGE_METRICS, *(f.name for f in METRICS))


LISTS = ("pairs", "claims")
"""They may be null."""


def _metric(name: str) -> str:
    if name not in METRIC_NAMES:
        raise ValueError(f"must be a metric{did_you_mean(name, METRIC_NAMES)}")
    return name


def _different(pair: Sequence[str]) -> Sequence[str]:
    if pair[0] == pair[1]:
        raise ValueError(f"compares {pair[0]!r} with itself")
    return pair


Metric = Annotated[str, AfterValidator(_metric)]
SEPARATED = rule(
    lambda text: all(part.strip() for part in text.split("|")), "must name a variant, or several separated by |"
)
SideText = Annotated[str, Field(description="the name of a variant"), SEPARATED]
Pair = Annotated[Sequence[SideText], TWO, Field(description="[a,b]"), AfterValidator(_different)]


def _mistakes(place: str, thing: type, given: Mapping[str, Any]) -> list[str]:
    """A line for each value that the fields of a dataclass do not allow."""
    musts = mistaken(signature_of(thing).parameters, given)
    return [f"{place}{name}={shown(given[name])}: {must}" for name, must in musts.items()]


@dataclass(frozen=True)
class Claim:
    """A statement that the data can support or refute.

    The metric `figure` is lower or higher (direction) in `variant` than in `against`, by more than margin; with
    no_worse: true, it is worse by less than margin. at: "trained"; or "equal_spill", for missed and hallucinated: the
    background logit of `against` is shifted until both networks have the same false-positive rate on background.
    """

    say: Text
    figure: Metric
    variant: SideText
    against: SideText
    direction: Literal["lower", "higher"]
    margin: NotNegative = 0.0
    no_worse: bool = False
    at: Literal["trained", "equal_spill"] = "trained"

    def __post_init__(self) -> None:
        if self.variant == self.against:
            raise ConfigError(f"report.claims: {self.variant!r} is compared with itself")
        if self.at != "trained" and self.figure not in ("missed", "hallucinated"):
            raise ConfigError(
                f"report.claims: at equal spill, only missed and hallucinated can be compared, not {self.figure}"
            )


@dataclass(frozen=True)
class Plan:
    """The `report` section of a config.

    margin: differences of mIoU within it count as equal. min_images: a class enters the verdicts if at least so many
    images contain it. pair_seeds: take differences seed by seed, since runs of one seed share initial weights and
    batches. pairs: [a, b] each, compares b with a; empty: each variant is compared with the one before it.
    """

    margin: Probability = 0.005
    min_images: Count = 20
    pair_seeds: bool = False
    pairs: Sequence[Pair] = ()
    claims: Sequence[Claim] = ()

    @classmethod
    def of(cls, section: Mapping[str, Any] | None) -> "Plan":
        """From plain values. Raises ConfigError for unknown keys and wrong values."""
        given = {key: value for key, value in (section or {}).items() if value is not None or key not in LISTS}
        claims = given.pop("claims", ())
        mistakes = _mistakes("report.", cls, given)
        if not isinstance(claims, list | tuple) or not all(isinstance(claim, Mapping) for claim in claims):
            mistakes.append(f"report.claims={shown(claims)}: must be a list of claims or null")
        else:
            mistakes += [mistake for claim in claims for mistake in _mistakes("report.claims: ", Claim, claim)]
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        given["pairs"] = tuple((a, b) for a, b in given.get("pairs", ()))
        try:
            return cls(claims=tuple(Claim(**claim) for claim in claims), **given)
        except TypeError as error:
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

    Damaged configs are passed over: their runs are left out of the report by name.
    """
    for file in sorted(folder.glob("*/config.yaml")):
        with suppress(DamagedFile, FileNotFoundError):
            if section := stored_config(file.parent, {}).get("report"):
                return Plan.of(OmegaConf.to_container(section))  # type: ignore[arg-type]
    return Plan()


def read_plan_file(name: str) -> Plan:
    """The plan in conf/report/NAME.yaml. Raises ConfigError if there is none."""
    names = sorted(file.stem for file in (CONF / "report").glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"--plan {name}: no file conf/report/{name}.yaml{did_you_mean(name, names)} ({', '.join(names)})"
        )
    return Plan.of(OmegaConf.to_container(compose_config([f"report={name}"]).report))  # type: ignore[arg-type]
