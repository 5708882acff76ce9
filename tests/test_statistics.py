"""Standard errors, differences, verdicts and their words: small numbers by hand, SciPy, the bootstrap, properties."""

import math

import numpy as np
import pytest
from scipy import stats

from segstudy.errors import ConfigError, DataError
from segstudy.study.analysis.verdicts import how_to_halve, verdict_sentence
from segstudy.study.statistics.bootstrap_check import bootstrap, cross_check
from segstudy.study.statistics.comparison import Comparison, MetricSamples, compare
from segstudy.study.statistics.influence import image_error, influence
from segstudy.study.statistics.interval import estimate, small_sample_warning
from segstudy.study.statistics.multiplicity import Decision, benjamini_hochberg, decide

NAN = float("nan")


def counts(rng: np.random.Generator, images: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed intersections and unions (N,C); each class in about two of three images."""
    bottom = np.round(rng.lognormal(6, 1, (images, classes)) * (rng.random((images, classes)) < 0.66))
    return np.round(bottom * rng.beta(3, 1.5, bottom.shape)), bottom


def compared(delta: float, se: float, df: float = math.inf, seeds: tuple[int, int] = (3, 3)) -> Comparison:
    """A comparison with this difference and standard error, half of whose variance is of the images."""
    p = 2 * float(stats.t.sf(abs(delta) / se, df))
    half = float(stats.t.isf(0.025, df)) * se
    return Comparison(delta, se, df, p, delta - half, delta + half, seeds, se * math.sqrt(0.5))


def with_p(p: float) -> Comparison:
    """A normal comparison with this p and a standard error of .01."""
    return compared(0.01 * float(stats.norm.isf(p / 2)), 0.01)


def test_influence_by_hand() -> None:
    """R = 3/4 and 2/8; B = 4 and 8; n/|K| = 2/2."""
    top, bottom = np.array([[1, 2], [2, 0]]), np.array([[2, 4], [2, 4]])
    value, influences = influence(top, bottom)
    assert value == pytest.approx(0.5)
    assert influences == pytest.approx([(1 - 1.5) / 4 + (2 - 1) / 8, (2 - 1.5) / 4 + (0 - 1) / 8])
    assert image_error(influences) == 0  # its two parts cancel


def test_influence_of_one_ratio() -> None:
    value, influences = influence(np.array([1, 0, 2]), np.array([2, 2, 2]))
    assert value == 0.5
    assert influences == pytest.approx([0, -0.5, 0.5])
    assert image_error(influences) == pytest.approx(0.5 / math.sqrt(3))


def test_only_kept_columns_count() -> None:
    top, bottom = counts(np.random.default_rng(0), 50)
    keep = np.array([True, False, True, False])
    value, influences = influence(top, bottom, keep)
    assert value == pytest.approx((top.sum(0) / bottom.sum(0))[keep].mean())
    assert influences == pytest.approx(influence(top[:, keep], bottom[:, keep])[1])
    assert influences.sum() == pytest.approx(0, abs=1e-9)


def test_nothing_counted_is_not_a_figure() -> None:
    value, influences = influence(np.zeros(3), np.zeros(3))
    assert math.isnan(value)
    assert np.isnan(influences).all()
    assert math.isnan(influence(np.ones((3, 2)), np.ones((3, 2)), np.zeros(2, bool))[0])
    assert influence(np.array([[1, 0], [1, 0]]), np.array([[2, 0], [2, 0]]))[0] == 0.5  # the empty column is left out
    figure = estimate([value], [influences])
    assert math.isnan(figure.value)
    assert math.isnan(figure.low)
    found = compare(MetricSamples([value], [influences]), MetricSamples([0.5], [np.zeros(3)]))
    assert math.isnan(found.p)
    decision = decide({"a": found, "b": with_p(0.03)})
    assert decision["a"].verdict == "undecided"
    assert math.isnan(decision["a"].p)
    assert decision["b"].p == pytest.approx(0.03)  # the undefined one is not corrected for
    assert "n/a" in verdict_sentence("V1", "V2", "mIoU", found, decision["a"])


def test_standard_error_equals_jackknife_and_bootstrap() -> None:
    top, bottom = counts(np.random.default_rng(1), 400)
    value, influences = influence(top, bottom)
    without = ((top.sum(0) - top) / (bottom.sum(0) - bottom)).mean(1)
    jackknife = math.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
    assert image_error(influences) == pytest.approx(jackknife, rel=0.02)
    assert image_error(influence(top, bottom, leave_one_out=True)[1]) == pytest.approx(jackknife)
    draws = bootstrap(top[None], bottom[None], draws=4000)
    assert abs(cross_check(image_error(influences), draws[:, 0])) < 0.05
    assert draws.mean() == pytest.approx(value, abs=0.002)
    figure = estimate([value], [influences])
    assert np.quantile(draws[:, 0], [0.025, 0.975]) == pytest.approx([figure.low, figure.high], abs=0.002)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_what_one_image_holds_alone_has_no_standard_error(leave_one_out: bool) -> None:
    """Its residual is 0 whatever it holds: a width of 0 would say that all images are like it."""
    top, bottom = np.array([[1, 0], [2, 0], [0, 3]]), np.array([[2, 0], [2, 0], [0, 4]])
    value, influences = influence(top, bottom, leave_one_out=leave_one_out)
    assert value == 0.75
    assert np.isnan(influences).all()
    figure = estimate([value] * 3, [influences] * 3)
    assert figure.value == 0.75
    assert np.isnan([figure.low, figure.high]).all()
    found = compare(MetricSamples([0.5] * 3, [influences] * 3), MetricSamples([value] * 3, [influences] * 3))
    decision = decide({"it": found})["it"]
    assert decision.verdict == "undecided"
    assert "or a class occurs in one image only" in verdict_sentence("V1", "V2", "mIoU", found, decision)
    assert np.isfinite(influence(top, bottom, np.array([True, False]), leave_one_out)[1]).all()


def test_what_does_not_vary_has_no_interval() -> None:
    """Hallucinated nowhere in 40 images: 0, but not 0 ± 0. The same of three seeds that end in the same epoch."""
    value, influences = influence(np.zeros(40), np.full(40, 100.0), leave_one_out=True)
    figure = estimate([value], [influences])
    assert figure.value == 0
    assert np.isnan([figure.low, figure.high]).all()
    found = compare(MetricSamples([5.0] * 3, [np.zeros(9)] * 3), MetricSamples([6.0] * 3, [np.zeros(9)] * 3))
    assert found.delta == 1
    assert np.isnan([found.se, found.p, found.low]).all()
    thirds = influence(np.full(40, 1.0), np.full(40, 3.0))[1] + 1e-17 * np.arange(40)  # rounding is no scatter
    assert np.isnan(estimate([1 / 3], [thirds]).low)


def test_groups_by_hand() -> None:
    """Sums −1, 0 and 1 over three groups of two: SE² = 3/2 · 2 / 36."""
    influences = np.array([-2.0, 1, 3, -3, 0.5, 0.5])
    assert image_error(influences, ["a", "a", "b", "b", "c", "c"]) == pytest.approx(math.sqrt(3) / 6)
    assert math.isnan(image_error(influences, [7] * 6))
    assert math.isnan(image_error(influences[:1]))


def test_a_group_an_image_is_no_group() -> None:
    _, influences = influence(*counts(np.random.default_rng(2), 60))
    assert image_error(influences, range(60)) == pytest.approx(image_error(influences))


def test_copies_of_images_add_nothing_within_groups() -> None:
    top, bottom = counts(np.random.default_rng(3), 60)
    _, influences = influence(top, bottom)
    value, doubled = influence(np.repeat(top, 2, 0), np.repeat(bottom, 2, 0))
    assert value == pytest.approx(influence(top, bottom)[0])
    assert image_error(doubled, np.repeat(np.arange(60), 2)) == pytest.approx(image_error(influences))
    assert image_error(doubled) == pytest.approx(
        image_error(influences) / math.sqrt(2), rel=0.02
    )  # the mistake they prevent


def test_groups_are_drawn_whole() -> None:
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(80), 5)
    bottom = np.full((400, 1), 100.0)
    top = 100 * np.clip(0.6 + 0.1 * rng.standard_normal(80)[groups] + 0.02 * rng.standard_normal(400), 0, 1)[:, None]
    _, influences = influence(top, bottom)
    draws = bootstrap(top[None], bottom[None], draws=4000, groups=[f"drive {g}" for g in groups])
    assert abs(cross_check(image_error(influences, groups), draws[:, 0])) < 0.05
    assert image_error(influences, groups) > 2 * image_error(influences)
    assert estimate([0.6], [influences], groups).high - 0.6 == pytest.approx(
        stats.t.isf(0.025, 79) * image_error(influences, groups)
    )


def test_bootstrap_by_hand() -> None:
    """Two images in one class: a draw has two of the first, one of each or two of the second."""
    top, bottom = np.array([[[1.0], [3.0]]]), np.array([[[4.0], [4.0]]])
    draws = bootstrap(top, bottom, draws=2000)
    assert set(np.unique(draws)) == {0.25, 0.5, 0.75}
    assert (draws == 0.5).mean() == pytest.approx(0.5, abs=0.05)


def test_bootstrap_shares_its_draws_and_does_not_depend_on_chunks() -> None:
    top, bottom = counts(np.random.default_rng(5), 30, 5)
    tops, bottoms = np.repeat(top[None], 60, 0), np.repeat(bottom[None], 60, 0)  # 60 runs: 4 classes at a time
    keep = np.array([True, True, False, True, True])
    many = bootstrap(tops, bottoms, keep, draws=50)
    assert many.shape == (50, 60)
    assert many == pytest.approx(np.repeat(bootstrap(top[None], bottom[None], keep, draws=50), 60, 1))
    assert (many == bootstrap(tops, bottoms, keep, draws=50)).all()
    assert (many != bootstrap(tops, bottoms, keep, draws=50, seed=1)).any()


def test_draws_without_a_class_have_no_value() -> None:
    bottom = np.ones((1, 20, 2))
    bottom[0, 1:, 1] = 0  # one image holds the second class: (1 − 1/20)^20 of the draws lack it
    draws = bootstrap(bottom / 2, bottom, draws=1000)[:, 0]
    assert np.isnan(draws).mean() == pytest.approx(0.95**20, abs=0.05)
    assert np.isnan(bootstrap(bottom, 0 * bottom, draws=10)).all()


def test_cross_check() -> None:
    """SD 2 against 2; and no check, rather than agreement, where there is nothing to compare with."""
    draws = np.tile([0.0, 2.0, 4.0], 100)
    assert cross_check(2.0, draws) == pytest.approx(math.sqrt(8 / 3 * 300 / 299) / 2 - 1)
    few = np.append(draws, [NAN] * 3)
    assert cross_check(2.0, few) == cross_check(2.0, draws)
    assert math.isnan(cross_check(2.0, np.append(few, NAN)))
    assert math.isnan(cross_check(0.0, draws))
    assert math.isnan(cross_check(NAN, draws))


def test_estimate_by_hand() -> None:
    """Four images .02², two seeds s² = .0001: SE² = .0004 + .00005, df .00045² / (.0004²/3 + .00005²/1) = 3.627."""
    influences = 0.02 * math.sqrt(4) * np.array([1, -1, 1, -1]) * math.sqrt(3 / 4)
    assert image_error(influences) == pytest.approx(0.02)
    found = estimate([0.5 - math.sqrt(0.00005), 0.5 + math.sqrt(0.00005)], [influences, influences])
    assert (found.value, found.seeds) == (pytest.approx(0.5), 2)
    assert found.high - 0.5 == pytest.approx(stats.t.isf(0.025, 3.62687) * math.sqrt(0.00045), rel=1e-5)
    one = estimate([0.5], [influences])
    assert (one.low, one.high) == pytest.approx((0.5 - 3.182446 * 0.02, 0.5 + 3.182446 * 0.02))  # t of 3 degrees


def test_seeds_alone_are_welch_and_the_paired_t_test() -> None:
    """Where no image moves anything, what is left is a known test."""
    a, b, still = [0.58, 0.60, 0.61], [0.62, 0.63, 0.66], [np.zeros(10)] * 3
    welch, pairs = stats.ttest_ind(b, a, equal_var=False), stats.ttest_rel(b, a)
    found = compare(MetricSamples(a, still), MetricSamples(b, still))
    assert (found.delta, found.p, found.df) == pytest.approx((0.04, welch.pvalue, welch.df))
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()))
    together = compare(MetricSamples(a, still), MetricSamples(b, still), paired=True)
    assert (together.p, together.df, together.seeds) == (pytest.approx(pairs.pvalue), pytest.approx(2), (3, 3))
    unequal = compare(MetricSamples(a, still), MetricSamples(b[:2], still[:2]), paired=True)  # cannot be paired
    assert unequal.p == pytest.approx(stats.ttest_ind(b[:2], a, equal_var=False).pvalue)


def test_images_alone_are_the_paired_test_over_images() -> None:
    """Equal bottoms make the figure a mean; df images − 1, or groups − 1."""
    rng = np.random.default_rng(6)
    tops, bottom = rng.random((2, 200)), np.ones(200)
    a, b = (MetricSamples([v], [p]) for v, p in (influence(t, bottom) for t in tops))
    found, test = compare(a, b), stats.ttest_rel(tops[1], tops[0])
    assert found.delta / found.se == pytest.approx(test.statistic)
    assert found.p == pytest.approx(test.pvalue)
    assert found.image_se == found.se
    assert compare(a, b, range(200)).p == pytest.approx(test.pvalue)
    assert compare(a, b, paired=True) == found


def test_images_and_seeds_add_up() -> None:
    """The same trainings as one seed and as three: the seeds' variances come on top, and less certain ones."""
    rng = np.random.default_rng(7)
    a = MetricSamples([0.50, 0.52, 0.54], list(rng.standard_normal((3, 100))))
    b = MetricSamples([0.60, 0.60, 0.63], list(rng.standard_normal((3, 100))))
    found = compare(a, b)
    images = image_error(np.mean(b.influences, 0) - np.mean(a.influences, 0)) ** 2
    parts = [images, 0.0004 / 3, 0.0003 / 3]
    assert found.se**2 == pytest.approx(sum(parts))
    assert found.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 99 + parts[1] ** 2 / 2 + parts[2] ** 2 / 2))
    assert found.image_se**2 == pytest.approx(images)
    assert compare(b, a).low == pytest.approx(-found.high)


def test_a_run_against_itself() -> None:
    value, influences = influence(*counts(np.random.default_rng(8), 40))
    one, three = MetricSamples([value], [influences]), MetricSamples([value] * 3, [influences] * 3)
    same = compare(three, three)
    assert (same.delta, same.se, same.p, same.low, same.high) == (0, 0, 1, 0, 0)
    assert decide({"it": same})["it"].verdict == "equal"
    assert decide({"it": same}, margin=0)["it"].verdict == "equal"
    assert decide({"it": compare(one, one)})["it"].verdict == "undecided"  # of variants, nothing was learnt


def test_bonferroni_by_hand() -> None:
    """p .01 .04 .03 of three: ·3, each interval at 1 − .05/3; shown in four of five studies: that and .84 more."""
    found = decide({name: with_p(p) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))})
    assert [found[k].p for k in "abc"] == pytest.approx([0.03, 0.12, 0.09])
    assert [found[k].verdict for k in "abc"] == ["better", "undecided", "undecided"]
    half = 0.01 * 2.3939797998185104  # the normal quantile at 1 − .05/6
    for name in "abc":
        assert (found[name].wide_high - found[name].wide_low) / 2 == pytest.approx(half)
    assert found["a"].detectable == pytest.approx(half + 0.01 * 0.8416212335729143)
    few = decide({"x": compared(0.1, 0.01, df=2), "y": compared(0.1, 0.01)})["x"]
    assert few.wide_high - 0.1 == pytest.approx(0.01 * 6.205346816570)  # Student's at 1 − .05/4 with two degrees


def test_a_difference_as_large_as_detectable_is_shown_in_four_of_five() -> None:
    rng = np.random.default_rng(3)
    goal = decide({i: compared(0.0, 0.01) for i in range(4)})[0].detectable
    shown = [decide({i: compared(d, 0.01) for i, d in enumerate(goal + 0.01 * rng.standard_normal(4))})[0].verdict
             for _ in range(600)]  # fmt: skip
    assert shown.count("better") / 600 == pytest.approx(0.8, abs=0.05)


def test_verdict_words() -> None:
    found = decide({"a": compared(-0.05, 0.01), "b": compared(0.001, 0.001), "c": compared(0.002, 0.0005),
                    "d": compared(0.01, 0.01)})  # fmt: skip
    assert [found[k].verdict for k in "abcd"] == ["worse", "equal", "equal", "undecided"]
    assert found["c"].wide_low > 0  # surely more than nothing, surely less than the margin
    single = decide({"a": compared(0.05, 0.01, seeds=(1, 3)), "b": compared(-0.05, 0.01, seeds=(1, 1))})
    assert [single[k].verdict for k in "ab"] == ["ahead", "behind"]
    assert decide({}) == {}


def test_interval_agrees_with_verdict_and_p() -> None:
    rng = np.random.default_rng(9)
    for _ in range(300):
        m = int(rng.integers(1, 9))
        pairs = {
            i: compared(*map(float, (rng.normal(0, 0.02), rng.uniform(0.0005, 0.02), rng.uniform(1, 40))))
            for i in range(m)
        }
        for i, d in decide(pairs, margin=0.008).items():
            assert d.p == pytest.approx(min(1, m * pairs[i].p))
            apart = d.wide_low > 0 or d.wide_high < 0
            assert apart == (d.p <= 0.05)
            inside = max(abs(d.wide_low), abs(d.wide_high)) <= 0.008
            better, worse = (apart and not inside and sign * pairs[i].delta > 0 for sign in (1, -1))
            said = "equal" if inside else "better" if better else "worse" if worse else "undecided"
            assert d.verdict == said
            assert d.wide_low <= pairs[i].low + 1e-12  # never narrower than the 95 % one
            assert pairs[i].high <= d.wide_high + 1e-12


@pytest.mark.parametrize("pairs", [3, 10])
def test_all_wide_intervals_hold_together(pairs: int) -> None:
    """In .95 of the studies, whatever is true: half of the pairs differ clearly, which must not narrow the others."""
    rng = np.random.default_rng(pairs)
    true = np.where(np.arange(pairs) % 2, 0.06, 0.0)
    held = []
    for noise in 0.01 * rng.standard_normal((300, pairs)):
        found = decide({i: compared(t + e, 0.01) for i, (t, e) in enumerate(zip(true, noise, strict=True))})
        held.append(all(d.wide_low <= true[i] <= d.wide_high for i, d in found.items()))
    assert np.mean(held) > 0.95 - 2 * math.sqrt(0.95 * 0.05 / 300)


def test_benjamini_hochberg() -> None:
    """Thresholds .025 .05 .075 .1: the third is passed, and takes the second with it."""
    assert benjamini_hochberg([0.07, 0.01, 0.9, 0.06]).tolist() == [True, True, False, True]
    assert benjamini_hochberg([NAN, 0.05, NAN]).tolist() == [False, True, False]
    assert benjamini_hochberg([]).tolist() == []
    assert not benjamini_hochberg([NAN, 0.5]).any()
    p = np.random.default_rng(10).random(40) ** 3
    assert (benjamini_hochberg(p) == (stats.false_discovery_control(p) <= 0.1)).all()


def test_better_in_words() -> None:
    better = Decision(0.01, 0.005, 0.027, "better", 0.01)
    text = "V2 is better than V1 in mIoU by 0.016 (0.005 to 0.027; three seeds each)"
    assert verdict_sentence("V1", "V2", "mIoU", compared(0.016, 0.005), better) == text
    worse = Decision(0.01, -0.027, -0.005, "worse", 0.01)
    assert "V2 is worse than V1 in mIoU by 0.016 (0.005 to 0.027; three and five" in verdict_sentence(
        "V1", "V2", "mIoU", compared(-0.016, 0.005, seeds=(3, 5)), worse
    )


def test_one_seed_in_words() -> None:
    ahead = Decision(0.01, 0.005, 0.027, "ahead", 0.01)
    text = verdict_sentence("V1", "V2", "mIoU", compared(0.016, 0.005, seeds=(1, 1)), ahead, seed_deviation=0.009)
    assert text == (
        "checkpoint V2 is ahead of checkpoint V1 in mIoU by 0.016 (0.005 to 0.027, images only). One training each: "
        "this does not show that variant V2 is better. Standard deviation over seeds: 0.009 in this study"
    )
    half = verdict_sentence("V1", "V2", "mIoU", compared(0.016, 0.005, seeds=(1, 3)), ahead)
    assert "One training of V1: " in half
    assert half.endswith("unknown here")


def test_equal_and_undecided_in_words() -> None:
    equal = Decision(0.5, -0.002, 0.003, "equal", 0.003)
    text = "V2 and V1 are equal in mIoU within ±0.005 (−0.002 to 0.003; two seeds each)"
    assert verdict_sentence("V1", "V2", "mIoU", compared(0.0005, 0.001, seeds=(2, 2)), equal) == text
    shown = Decision(0.01, 0.001, 0.003, "equal", 0.003)
    text = verdict_sentence("V1", "V2", "mIoU", compared(0.002, 0.0005), shown)
    assert "the difference is significant, but too small" in text
    unsure = decide({"it": compared(0.004, 0.012 / 2.8)})["it"]
    text = verdict_sentence("V1", "V2", "mIoU", compared(0.004, 0.012 / 2.8), unsure)
    assert text.startswith("undecided: V2 − V1 in mIoU is +0.004 (−0.004 to 0.012; three seeds each); ")
    assert "the smallest difference this study could have shown is 0.012; " in text
    assert "between these checkpoints; about 4 times the images would halve it" in verdict_sentence(
        "V1", "V2", "mIoU", Comparison(0.0, 0.01, math.inf, 1, -0.02, 0.02, (1, 1), 0.01),
        Decision(1, -0.02, 0.02, "undecided", 0.028),
    )  # fmt: skip


def test_what_would_halve_it() -> None:
    """SE² = 100: 25 is the aim. Seeds 90 of it: 90/(25 − 10) = 6 times; images likewise; half and half: neither."""

    def of(images: float) -> str:
        return how_to_halve(Comparison(0, 10, math.inf, 1, -20, 20, (3, 3), math.sqrt(images)))

    assert of(10) == "about 18 seeds would halve it"
    assert of(90) == "about 6 times the images would halve it"
    assert of(50).startswith("only four times as many seeds")
    assert of(24.9).startswith("only")  # 751 times as many seeds is no advice
    assert "would not reduce it" in how_to_halve(Comparison(0, 0, math.inf, 1, 0, 0, (3, 3), 0))


def test_rough_warnings() -> None:
    assert small_sample_warning(50) is None
    assert small_sample_warning(445, 10) is None
    assert small_sample_warning(49) == "49 images: too few images for a 95 % interval to be trusted"
    assert small_sample_warning(445, 2) == "interval from 2 groups: rough"
    assert str(small_sample_warning(49, 1)).endswith("to be trusted; interval from 1 group: rough")


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        influence(np.ones(3), np.ones(4))
    with pytest.raises(DataError, match="columns, but keep"):
        influence(np.ones((3, 2)), np.ones((3, 2)), np.ones(3, bool))
    with pytest.raises(DataError, match="3 images, 2 labels"):
        image_error(np.zeros(3), ["a", "b"])
    with pytest.raises(DataError, match="same images"):
        compare(MetricSamples([0.5], [np.zeros(3)]), MetricSamples([0.5], [np.zeros(4)]))
    with pytest.raises(DataError, match="same images"):
        estimate([0.5, 0.5], [np.zeros(3), np.zeros(4)])
    with pytest.raises(ConfigError, match="margin"):
        decide({}, margin=-1)
