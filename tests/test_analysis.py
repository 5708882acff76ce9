"""From tests to findings: groups, units, pairs, claims, verdicts; on hand-made predictors."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from archetypes import predictors, scene
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from segstudy.config.compose import compose_config
from segstudy.errors import ConfigError, DataError
from segstudy.formatting import format_number, format_percent, format_range
from segstudy.measures.operating_curve import BINS, MARGIN_CATEGORIES
from segstudy.runs.record import read_record
from segstudy.runs.tables import comparable, print_study
from segstudy.study.analysis.analyse import analyse, compare_pairs, most_influential_images
from segstudy.study.analysis.findings import Group
from segstudy.study.analysis.metrics import by_name
from segstudy.study.analysis.plan import Plan, Side, matching, read_plan, read_plan_file
from segstudy.study.analysis.samples import ComparisonSettings, samples_of_ratio
from segstudy.study.analysis.support import clusters_of, in_images, supported_classes
from segstudy.study.analysis.variants import inspected
from segstudy.study.analysis.verdicts import first_sentence
from segstudy.study.counts import Counts
from segstudy.study.results import TestResult, from_masks, read_study, variant_names
from segstudy.study.statistics.comparison import MetricSamples, average, compare

NAMES = ["background", "a", "b", "c", "d", "e"]
TRUTHS = [scene(seed, 64) for seed in range(60)]


def trained(variant: str, story: str, seed: int, every: int = 1, changes: Sequence[str] = ()) -> TestResult:
    """A test that predicts as `story` does on every so manieth image, and perfectly else."""
    pairs = []
    for i, truth in enumerate(TRUTHS):
        told = predictors(truth, len(NAMES), i)
        pairs.append((str(i), truth, told[story if i % every == seed % every else "perfect"]))
    record = {"changes": [f"model={variant}", *changes], "palette": [[i, i, i] for i in range(6)], "steps": 9}
    return replace(from_masks(variant, pairs, NAMES, 0), seed=seed, record=record)


@pytest.fixture(scope="module")
def tests() -> list[TestResult]:
    return [
        trained(name, story, seed, every)
        for name, story, every in (("v1", "speckled", 1), ("v2", "core only", 2), ("v3", "holed", 3))
        for seed in (0, 1, 2)
    ]


CLAIMS = [
    {"say": "V2 mixes less", "figure": "objects_mixed", "variant": "v2", "against": "v1", "direction": "lower"},
    {"say": "V2 is less timid", "figure": "missed", "variant": "v2", "against": "v1", "direction": "lower"},
    {"say": "V3 is best", "figure": "miou", "variant": "v3", "against": "v1|v2", "direction": "higher"},
    {"say": "V2 as good as V3", "figure": "miou", "variant": "v2", "against": "v3", "direction": "higher",
     "no_worse": True, "margin": 0.9},
    {"say": "V9", "figure": "miou", "variant": "v9", "against": "v1", "direction": "higher"},
    {"say": "sooner", "figure": "epochs_to_90", "variant": "v2", "against": "v1", "direction": "lower"},
]  # fmt: skip


@pytest.fixture(scope="module")
def group(tests: list[TestResult]) -> Group:
    return analyse(tests, Plan.of({"min_images": 5, "claims": CLAIMS, "pairs": [["v1", "v2"], ["v1", "v3"]]}), "made")


def test_variants_have_their_seeds_and_figures(group: Group) -> None:
    assert [(v.name, list(v.seeds)) for v in group.variants] == [(n, [0, 1, 2]) for n in ("v1", "v2", "v3")]
    v1, v2, v3 = group.variants
    assert v1.outcomes["mixed"] > 0.9
    assert v2.metrics["missed"].value > v3.metrics["missed"].value > 0
    assert v1.metrics["missed"].value == 0
    assert v1.miou.low < v1.miou.value < v1.miou.high
    assert v1.miou_original.value != v1.miou_original.value  # masks were not taken at another size: n/a
    assert v2.confused[0][1] == "background"


def test_planned_pairs_and_no_others_get_verdicts(group: Group) -> None:
    assert [(d.a, d.b, d.verdict) for d in group.differences] == [("v1", "v2", "better"), ("v1", "v3", "better")]
    for d in group.differences:
        assert d.wide_low <= d.low <= d.delta <= d.high <= d.wide_high
        assert d.wide_low > 0
    v3 = group.differences[1]
    assert group.main_difference == v3
    said = first_sentence([group])
    assert said.startswith(f"v3 is better than v1 by {format_number(v3.delta)} mIoU (")
    mixed = [format_percent(v.outcomes["mixed"]) for v in (group.variants[2], group.variants[0])]
    assert f"three seeds each): it gives fewer objects a mix of labels ({mixed[0]} instead of {mixed[1]})" in said


def test_claims_are_supported_refuted_or_not_measured(group: Group) -> None:
    outcomes = ["supported", "refuted", "supported", "supported", "not measured", "not measured"]
    assert [c.outcome for c in group.claims] == outcomes
    assert "v9" in group.claims[4].words


def test_the_sentence_of_one_variant_compares_nothing(tests: list[TestResult]) -> None:
    alone = analyse([t for t in tests if t.variant == "v1"], Plan(min_images=5), "made")
    assert first_sentence([alone]).startswith("v1 is the only variant, with mIoU 0.")


def test_one_seed_decides_nothing_about_variants(tests: list[TestResult]) -> None:
    once = [t for t in tests if t.seed == 0]
    found = analyse(once, Plan.of({"min_images": 5, "claims": CLAIMS[:1]}), "made")
    assert [d.verdict for d in found.differences] == ["ahead", "ahead"]
    assert found.claims[0].outcome == "undecided"
    assert "One seed" in found.claims[0].words
    assert any("one set of predictions" in w for w in found.warnings)


def test_no_interval_of_a_difference_is_wider_than_all_differences() -> None:
    setting = ComparisonSettings(np.ones(2, bool), True, None, False)
    miou = {"v1": [0.1, 0.5], "v2": [0.5, 0.9]}
    samples = {name: MetricSamples(values, [np.zeros(40)] * 2, [0, 1]) for name, values in miou.items()}
    (d,) = compare_pairs(samples, [(Side("v1", ["v1"]), Side("v2", ["v2"]))], setting, Plan())
    assert (d.verdict, d.high, d.wide_high) == ("undecided", 1, 1)
    assert d.low == d.wide_low == pytest.approx(-0.817, abs=1e-3)
    assert d.words.endswith("to 1.000; two seeds each); " + d.needed)
    assert d.needed == "this study could not have shown any difference: more seeds or images are needed"


def test_the_same_figures_twice_are_equal_or_undecided(tests: list[TestResult]) -> None:
    again = [replace(t, variant="again") for t in tests if t.variant == "v2"]
    found = analyse([t for t in tests if t.variant == "v2"] + again, Plan(min_images=5), "made")
    assert found.differences[0].verdict in ("equal", "undecided")
    assert found.differences[0].delta == 0


def test_classes_with_few_images_carry_no_verdict(tests: list[TestResult]) -> None:
    images = (tests[0].counts.truth > 0).sum(0)
    found = analyse(tests, Plan(min_images=int(images[1:].max())), "made")
    assert found.supported.sum() == (images >= images[1:].max()).sum()
    assert any("but not in the verdicts" in w for w in found.warnings)
    name = f"mIoU of the {found.supported.sum()} classes in {found.min_images} or more images"
    assert found.miou_name == name
    assert f" in {name} by " in found.differences[0].words
    assert name in found.differences[0].words


def test_without_a_supported_class_there_are_figures_but_no_verdicts(tests: list[TestResult]) -> None:
    found = analyse(tests, Plan.of({"min_images": 1000, "claims": [CLAIMS[2], CLAIMS[0]]}), "made")
    assert found.supported.sum() == 0
    assert found.scored.sum() == 6
    assert found.miou_name == "mIoU"
    assert found.variants[0].miou == found.variants[0].miou_all
    assert [d.verdict for d in found.differences] == ["undecided"] * 2
    assert found.differences[0].wide_low > 0  # it would be "better"
    assert "no class has truth in 1000 images" in found.differences[0].words
    assert [c.outcome for c in found.claims] == ["undecided", "supported"]  # the second is of no class
    assert any("its differences get no verdict" in w for w in found.warnings)
    assert not any(set(marks) & set(NAMES) for marks in found.significant.values())


def test_a_class_of_one_drive_carries_no_verdict(tests: list[TestResult]) -> None:
    """All its images belong together: how it varies from drive to drive is unknown."""
    held = in_images(tests[0])
    clusters = [f"drive {0 if there else 1 + i % 12}" for i, there in enumerate(held[:, 1])]
    assert supported_classes(held, 5, clusters).tolist() == [True, False, *[True] * 4]
    assert supported_classes(held, 5).all()


def test_a_class_counts_at_the_images_original_size(tests: list[TestResult]) -> None:
    truth = np.zeros_like(tests[0].counts.truth)
    truth[:, 0], truth[:7, 3] = 100, 1
    found = analyse([replace(t, original=replace(t.counts, truth=truth)) for t in tests], Plan(min_images=7), "made")
    assert found.class_images.tolist() == [60, 0, 0, 7, 0, 0]
    assert found.supported.tolist() == [True, False, False, True, False, False]


def test_a_class_in_one_image_has_no_interval_and_is_said_to_have_none(tests: list[TestResult]) -> None:
    """Only image 0 holds class 5: its IoU in another image is unknown, and no width of 0 may say it is known."""
    first = np.arange(60)[:, None] == 0
    alone = np.arange(6) == 5

    def only(t: TestResult) -> TestResult:
        hit, truth, predicted = (
            np.where(alone & ~first, 0, x) for x in (t.counts.true_positives, t.counts.truth, t.counts.predicted)
        )
        return replace(t, counts=Counts(hit, truth + 9 * (alone & first), predicted, t.counts.confusion))

    held = [only(t) for t in tests]
    some = analyse(held, Plan(min_images=1), "made")
    assert some.supported.tolist() == [True] * 5 + [False]
    assert np.isfinite(some.variants[0].miou.low)
    assert np.isfinite(some.variants[0].miou_all.value)
    assert np.isnan(some.variants[0].miou_all.low)
    none = analyse(held, Plan(min_images=1000), "made")
    assert np.isnan([none.variants[0].miou.low, none.differences[0].low, none.differences[0].p]).all()
    assert [d.verdict for d in none.differences] == ["undecided"] * 2
    said = [w for w in none.warnings if "cannot be checked by bootstrap" in w]
    assert [w.partition(":")[0] for w in said] == ["v1", "v2", "v3"]
    assert not any("inf" in w for w in none.warnings)


def test_claims_are_held_together(group: Group, tests: list[TestResult]) -> None:
    """Of three with intervals, each at 1 − .05/3 with Student's quantile; that of a planned pair is its verdict's."""
    pair = {"say": "p", "figure": "miou", "variant": "v2", "against": "v1", "direction": "higher"}
    claims = [*(c for c in CLAIMS if c["figure"] != "epochs_to_90"), pair]
    plan = Plan.of({"min_images": 5, "claims": claims, "pairs": [["v1", "v2"], ["v1", "v3"]]})
    found = analyse(tests, plan, "made")
    runs = {name: [t for t in tests if t.variant == name] for name in ("v1", "v2")}
    a, b = (samples_of_ratio(r, by_name("missed").of) for r in runs.values())
    assert a is not None
    assert b is not None
    c = compare(a, b)
    half = float(stats.t.isf(0.025 / 4, c.df)) * c.se
    assert f"({format_range(c.low, c.high)}; all 4 claims: " in found.claims[1].words
    assert f"{format_range(c.delta - half, c.delta + half)})" in found.claims[1].words
    d = found.differences[0]
    assert f"all 2 planned pairs: {format_range(d.wide_low, d.wide_high)})" in found.claims[-1].words


def test_few_sequences_become_blocks(tests: list[TestResult]) -> None:
    test = tests[0]
    assert clusters_of(test) == (None, [])
    clusters, said = clusters_of(replace(test, groups=[str(i // 3) for i in range(60)]))
    assert clusters is not None
    assert len(set(clusters)) == 20
    assert "20 groups" in said[0]
    clusters, said = clusters_of(replace(test, groups=["drive a"] * 25 + ["drive b"] * 35))
    assert clusters is not None
    assert [clusters.count(u) for u in dict.fromkeys(clusters)] == [20, 5, 20, 15]
    assert "blocks of 20" in said[0]


def test_the_images_that_carry_a_difference_come_first(group: Group) -> None:
    a = MetricSamples([0.5], [np.array([0.0, 0, 0, 0])])
    b = MetricSamples([0.6], [np.array([0.3, -0.1, -0.1, -0.1])])
    told = most_influential_images(list("wxyz"), {"v1": a, "v2": b}, group.differences[:1])
    assert told[0][:2] == (0, "w")
    assert told[0][2] > 0


def test_settings_name_the_variants_they_mean() -> None:
    variants = {
        "x": ["model=pet_unet", "loss=dice", "encoder.down=maxpool"],
        "y": ["model=pet_unet", "loss=bce", "encoder.down=maxpool"],
        "z": ["model=pet_unet", "loss=dice", "encoder.down=strided"],
    }
    assert matching("loss=dice", variants) == ["x", "z"]
    assert matching("loss=dice encoder.down=maxpool", variants) == ["x"]
    assert matching("loss=bce|down=strided", variants) == ["y", "z"]
    assert matching("pet_unet", variants) == ["x", "y", "z"]
    assert matching("y", variants) == ["y"]
    assert matching("w", variants) == []


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"margn": 1}, "margn"),
        ({"pairs": [["v1"]]}, r"must be a list of \[a,b\]"),
        ({"claims": [{"say": "x"}]}, "figure"),
        ({"claims": [CLAIMS[0] | {"figure": "mised"}]}, "missed"),
        ({"claims": [CLAIMS[0] | {"direction": "up"}]}, "lower or higher"),
        ({"claims": [CLAIMS[0] | {"at": "equal_spill"}]}, "at equal spill, only missed and hallucinated"),
    ],
)
def test_a_plan_that_is_not_understood(section: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Plan.of(section)


def test_seeds_of_one_variant_share_a_name() -> None:
    runs = {
        f"{model}_{seed}": {"changes": [f"model={model}", "data=voc", f"seed={seed}"]}
        for model in ("v1", "v2")
        for seed in (0, 1)
    }
    assert variant_names(runs) == {"v1_0": "v1", "v1_1": "v1", "v2_0": "v2", "v2_1": "v2"}


def test_the_studies_in_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine" / "v1").mkdir(parents=True)
    (tmp_path / "mine" / "v1" / "record.json").write_text("{}")
    with pytest.raises(DataError, match=rf"found:    mine\n  → segstudy report {tmp_path}/mine$"):
        read_study(tmp_path)


def test_runs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no runs in"):
        read_study(tmp_path)
    for name, text in {
        "broken": "{",
        "list": "[1]",
        "failed": json.dumps({"status": "failed", "error": "out of memory"}),
        "half": json.dumps({"status": "running"}),
        "old": json.dumps({"status": "done", "class_names": ["a"], "data": {
            "name": "X", "size": [1, 1], "roles": {"report": {"split": "r", "images": 4}}, "background": 0}}),
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    groups, left_out = read_study(tmp_path)
    assert groups == []
    told = dict(left_out)
    assert set(told) == {"broken", "list", "failed", "half", "old"}
    assert "out of memory" in told["failed"]
    assert "not finished" in told["half"]
    assert "evaluate" in told["old"]


def test_seeds_are_paired_by_what_they_are_and_not_by_place(tests: list[TestResult]) -> None:
    moved = [replace(t, seed=t.seed + 1) if t.variant == "v2" else t for t in tests if t.variant != "v3"]
    paired, free = (analyse(moved, Plan(min_images=5, pair_seeds=p), "made") for p in (True, False))
    assert paired.differences == free.differences
    assert any("same seeds" in w for w in paired.warnings)


def test_the_mean_of_variants_with_other_seeds_is_paired_with_none() -> None:
    influences = [np.array([0.1, -0.1])] * 2
    one, other = MetricSamples([0.4, 0.5], influences, [0, 1]), MetricSamples([0.5, 0.7], influences, [1, 2])
    assert average([one, one]).seeds == [0, 1]
    assert average([one, other]).seeds == [(0, 1), (1, 2)]
    assert compare(one, other, paired=True) == compare(one, other)
    assert compare(one, average([one, other]), paired=True) == compare(one, average([one, other]))


def test_a_figure_that_one_training_has_not_is_not_measured(tests: list[TestResult]) -> None:
    once = [t for t in tests if t.seed == 0]
    worst = {"say": "w", "figure": "worst", "variant": "v2", "against": "v1", "direction": "higher"}
    never, alone = analyse(once, Plan.of({"min_images": 5, "claims": [CLAIMS[5], worst]}), "made").claims
    assert never.outcome == "not measured"
    assert alone.outcome == "undecided"
    assert "One seed per variant is not enough" in alone.words


def test_a_run_without_a_history_hides_no_target(tests: list[TestResult], tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,val/miou\n0,0.1\n1,0.8\n")
    v1, v2 = ([t for t in tests if t.variant == name] for name in ("v1", "v2"))
    seen = [replace(t, folder=tmp_path) for t in v2]
    claim = {"say": "x", "figure": "epochs_to_90", "variant": "v2", "against": "v3", "direction": "lower"}
    again = [replace(t, variant="v3") for t in seen]
    told = analyse([*v1, *seen, *again], Plan.of({"min_images": 5, "claims": [claim]}), "made").claims[0]
    assert told.outcome == "undecided"  # not "not measured": both reach it, in the same epoch


def test_variants_of_one_seed_each_make_no_two_seeds_at_equal_spill(tests: list[TestResult]) -> None:
    rng = np.random.default_rng(0)

    def with_offsets(t: TestResult, name: str, missed: int) -> TestResult:
        margins = rng.integers(50, 60, (60, BINS, len(MARGIN_CATEGORIES)))
        margins[:, : BINS // 2, 0] += missed
        return replace(t, variant=name, sums={**t.sums, "offset_margins": margins})

    names = {"a": 0, "b": 0, "c": 900, "d": 900}
    once = [with_offsets(tests[0], name, missed) for name, missed in names.items()]
    claim = {"say": "x", "figure": "missed", "variant": "c|d", "against": "a|b", "direction": "higher"}
    told = analyse(once, Plan.of({"min_images": 5, "claims": [claim | {"at": "equal_spill"}]}), "made").claims[0]
    assert told.outcome == "undecided"
    assert "One seed per variant is not enough" in told.words


def test_few_blocks_are_said_to_be_rough(tests: list[TestResult]) -> None:
    drive = [replace(t, groups=["drive"] * 60) for t in tests if t.seed == 0]
    assert any("interval from 3 groups: rough" in w for w in analyse(drive, Plan(min_images=5), "made").warnings)


def test_images_without_counted_pixels_have_no_figures_and_raise_no_warning() -> None:
    void, labels = np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)
    void_only = [from_masks(name, [("x", void, labels), ("y", void, labels)], NAMES, 0) for name in "ab"]
    found = analyse(void_only, Plan(), "made")
    assert np.isnan(found.variants[0].metrics["image_miou"].value)
    assert found.differences[0].verdict == "undecided"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy leaves the cut file open
def test_a_seed_counts_once_and_a_cut_file_ends_no_report(tmp_path: Path) -> None:
    data = {"name": "X", "size": [1, 1], "roles": {"report": {"split": "r", "images": 4}}, "background": 0}
    record = {"status": "done", "class_names": ["a"], "data": data, "seed": 0}
    for name, changes in {"v1": ["model=v1"], "v1_seed=0": ["model=v1", "seed=0"], "v2": ["model=v2"]}.items():
        (tmp_path / name / "test").mkdir(parents=True)
        (tmp_path / name / "record.json").write_text(json.dumps(record | {"changes": changes}))
        rows = np.zeros((0, 4), int)
        np.savez(tmp_path / name / "test" / "counts.npz", names=["x"], network=rows, original=rows)
        np.savez(tmp_path / name / "test" / "measures.npz", names=["x"], groups=["x"])
    cut = tmp_path / "v2" / "test" / "counts.npz"
    cut.write_bytes(cut.read_bytes()[:40])
    groups, left_out = read_study(tmp_path)
    assert [[(t.variant, t.seed) for t in tests] for tests in groups] == [[("v1", 0)]]
    told = dict(left_out)
    assert "counts once" in told["v1_seed=0"]
    assert "damaged" in told["v2"]


@pytest.mark.parametrize(
    "wrong",
    [{"class_names": "abc"}, {"class_names": ["a", 1]}, {"palette": "red"}, {"data": None}, {"data": []},
     {"metrics": None}, {"status": ["done"]}, {"status": "finished"}, {"changes": 5}, {"changes": []},
     {"encoder_weights": 5}],
    ids=str,
)  # fmt: skip
def test_a_record_that_no_run_writes_is_named(wrong: dict[str, object], tmp_path: Path) -> None:
    key = next(iter(wrong))
    record = {"status": "done", "class_names": ["a"], "data": {"name": "X"}, "error": None}
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "record.json").write_text(json.dumps(record | wrong))
    groups, [(name, why)] = read_study(tmp_path)
    assert (groups, name) == ([], "v1")
    assert f"record.json is damaged: {key}" in why
    assert "unreadable" in print_to_text(tmp_path)
    with pytest.raises(ConfigError, match=rf"record\.json is damaged: {key}"):
        read_record(tmp_path / "v1")


def test_pipes_and_damaged_configs_in_a_study_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    os.mkfifo(tmp_path / "v1" / "config.yaml")
    os.mkfifo(tmp_path / "v1" / "record.json")
    assert read_plan(tmp_path) == Plan()
    with pytest.raises(ConfigError, match="not a regular file"):
        read_record(tmp_path / "v1")
    (tmp_path / "v1" / "config.yaml").unlink()
    (tmp_path / "v1" / "config.yaml").write_text("report: [")
    assert read_plan(tmp_path) == Plan()
    (tmp_path / "v2").mkdir()
    OmegaConf.save(compose_config(["report.margin=0.02"]), tmp_path / "v2" / "config.yaml")
    assert read_plan(tmp_path).margin == 0.02


def print_to_text(study: Path) -> str:
    screen = Console(record=True, width=200)
    print_study(study, screen)
    return screen.export_text()


def test_brackets_and_damaged_records_end_no_table(tmp_path: Path) -> None:
    failed = {"status": "failed", "error": "no file [/data/x]", "changes": ["model=v1"]}
    for name, text in {"bad": json.dumps(failed), "cut": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    screen = Console(record=True, width=200)
    assert len(print_study(tmp_path, screen)) == 2
    text = screen.export_text()
    assert "[/data/x]" in text
    assert "unreadable" in text


def test_runs_with_another_background_are_not_compared() -> None:
    data = {"name": "X", "size": [1, 1], "roles": {"report": {"split": "r", "images": 4}}}
    runs = {str(b): {"data": data | {"background": b}, "class_names": ["a"]} for b in (0, None)}
    assert [list(group) for group in comparable(runs)] == [["0"], ["None"]]


def test_a_bar_without_an_alternative_means_no_more() -> None:
    assert matching("v1|", {"v1": ["model=v1"], "v2": ["model=v2"]}) == ["v1"]


def test_a_seed_that_lacks_a_sum_has_no_such_figure(tests: list[TestResult]) -> None:
    more = {"confidence_all_pixels": np.ones((60, 10)), "nll_all": np.ones(60), "pixels_all": np.ones(60)}
    runs = [replace(tests[0], sums={**tests[0].sums, **more}), tests[1]]
    assert np.isnan(analyse(runs, Plan(min_images=5), "made").variants[0].metrics["nll"].value)


def test_what_is_worth_a_look_differs_and_what_is_alike_does_not(group: Group, tests: list[TestResult]) -> None:
    assert "missed" in group.significant["v1", "v2"]
    assert "objects_mixed" in group.significant["v1", "v3"]
    twice = [t for t in tests if t.variant == "v1"] + [replace(t, variant="v2") for t in tests if t.variant == "v1"]
    assert analyse(twice, Plan.of({"min_images": 5}), "made").significant == {("v1", "v2"): set()}


def test_histograms_are_shares_of_objects(group: Group) -> None:
    v1, v2, _ = group.variants
    for v in group.variants:
        assert all(h.shape == (20,) and h.sum() == pytest.approx(1) for h in v.histograms.values())
    assert v1.histograms["found"][-1] == 1  # speckled: all of each object is found, under many labels
    assert v2.histograms["found"][-1] < 1  # core only
    assert v1.histograms["purity"][-1] < 0.5 < v2.histograms["purity"][-1]


def test_planned_pairs_without_runs_are_said(tests: list[TestResult]) -> None:
    found = analyse(tests, Plan.of({"min_images": 5, "pairs": [["v1", "v2"], ["v1", "v9"]]}), "made")
    assert [(d.a, d.b) for d in found.differences] == [("v1", "v2")]
    assert "planned, but not in this study: v9 against v1" in found.warnings


def test_the_last_look_of_the_inspector_is_a_file_and_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "inspector").mkdir()
    (tmp_path / "inspector" / "epoch_001.csv").write_text("layer,flags\na,\nb,dead\n")
    os.mkfifo(tmp_path / "inspector" / "epoch_002.csv")
    run: Any = SimpleNamespace(folder=tmp_path)
    assert inspected([run]) == [("b", "dead")]


def test_runs_of_an_older_version_are_read_and_said_to_lack_what_they_lack(
    tests: list[TestResult], tmp_path: Path
) -> None:
    """Their fine bins were others, their void was measured near labels alone, and they have no margins."""
    lost = ("edge_unsure", "edge_length")

    def old(t: TestResult) -> TestResult:
        bins = {f"confidence_all_{what}": np.ones((60, 200)) for what in ("pixels", "confidence", "correct")}
        kept = {key: value for key, value in t.sums.items() if key not in lost}
        return replace(t, sums=kept | bins, folder=tmp_path)

    def new(t: TestResult) -> TestResult:
        bins = {f"confidence_all_{what}": np.ones((60, 300)) for what in ("pixels", "confidence", "correct")}
        margins = {"offset_margins": np.ones((60, BINS, len(MARGIN_CATEGORIES)), int)}
        return replace(t, sums={**t.sums, **bins, **margins}, folder=tmp_path)

    mixed = [old(t) if t.seed == 0 else new(t) for t in tests]
    claim = {
        "say": "x",
        "figure": "missed",
        "variant": "v2",
        "against": "v1",
        "direction": "lower",
        "at": "equal_spill",
    }
    found = analyse(mixed, Plan.of({"min_images": 5, "claims": [claim]}), "made")
    assert any("an older version tested" in w for w in found.warnings)
    assert found.claims[0].outcome == "not measured"
    assert "segstudy evaluate RUN --retest" in found.claims[0].words
    assert np.isnan(found.variants[0].metrics["boundary_f"].value)
    assert np.isfinite(found.variants[0].metrics["ece_all"].value)
    assert found.variants[0].reliability == {}
    assert not any("older" in w for w in analyse([new(t) for t in tests], Plan(min_images=5), "made").warnings)


def test_a_plan_is_read_by_its_name() -> None:
    assert ("v1", "v2") in read_plan_file("journey").pairs
    with pytest.raises(ConfigError, match=r"--plan jorney: no file conf/report/jorney\.yaml; did you mean .*journey"):
        read_plan_file("jorney")
