"""Failure modes: the nine stories, the partition's properties, and sums worked by hand."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from archetypes import STORIES, predictors, scene
from scipy import ndimage

from segstudy.callbacks.per_image_confusion import PerImageConfusion
from segstudy.callbacks.per_image_errors import PerImageErrors
from segstudy.data.datamodule import SegmentationData
from segstudy.labels import IGNORE
from segstudy.measures.boundaries import (
    band,
    blockiness,
    changes,
    contour,
    fill_void,
    half_widths,
    narrow,
    near_edges,
    phases,
    tolerance,
)
from segstudy.measures.error_categories import CATEGORIES, error_categories, image_errors
from segstudy.measures.objects import object_sums, outcome_of
from segstudy.measures.windows import class_boxes, grown, shrunk, union, within
from segstudy.study.analysis.metrics import METRICS, by_name, image_miou, worst
from segstudy.study.analysis.metrics import blockiness as blocks
from segstudy.study.results import TestResult, from_masks

CLASSES = 6
NAMES = [str(c) for c in range(CLASSES)]


def figure(tested: TestResult, name: str) -> float:
    terms = by_name(name).of(tested)
    if terms is None:
        return math.nan
    top, bottom = terms[0].sum(0), terms[1].sum(0)
    return float(np.mean(top / bottom)) if np.all(bottom > 0) else math.nan


@pytest.fixture(scope="module")
def stories() -> dict[str, TestResult]:
    truths = [scene(seed) for seed in range(6)]
    predicted = [predictors(truth, CLASSES, seed) for seed, truth in enumerate(truths)]
    return {
        name: from_masks(name, [(str(i), t, p[name]) for i, (t, p) in enumerate(zip(truths, predicted, strict=True))],
                       NAMES, 0)
        for name in STORIES
    }  # fmt: skip


OWN = {
    "speckled": ["objects_mixed", "absent_classes"],
    "core only": ["objects_partial"],
    "wrong label": ["objects_wrong_label", "mislabelled", "hallucinated_inside"],
    "dilated": ["spilled"],
    "ghost": ["hallucinated_outside"],
    "striped": ["pieces"],
    "all background": ["missed", "objects_missed"],
}


@pytest.mark.parametrize("story", OWN)
def test_each_story_moves_its_own_number_most(stories: dict[str, TestResult], story: str) -> None:
    for name in OWN[story]:
        values = {s: v for s, t in stories.items() if not math.isnan(v := figure(t, name))}
        assert max(values, key=lambda s: values[s]) == story, (name, values)
        assert figure(stories["perfect"], name) == (1 if name == "pieces" else 0)


def test_a_holed_object_is_whole_where_a_striped_one_is_not(stories: dict[str, TestResult]) -> None:
    holed, striped = stories["holed"], stories["striped"]
    assert figure(holed, "pieces") == figure(holed, "coherence") == 1
    assert figure(striped, "coherence") < 0.5
    assert figure(holed, "objects_right") == figure(striped, "objects_right") == 1
    assert figure(holed, "roughness") > 1.5


def test_the_perfect_predictor_is_perfect_through_the_void_ring(stories: dict[str, TestResult]) -> None:
    perfect = stories["perfect"]
    ones = ("shape_iou", "precision", "objects_right", "boundary_iou", "boundary_f", "roughness", "coherence", "pieces")
    assert [figure(perfect, name) for name in ones] == [1] * len(ones)
    assert worst(perfect)[0] == 1


def test_what_is_not_defined_is_not_zero(stories: dict[str, TestResult]) -> None:
    nothing = stories["all background"]
    for name in ("hallucinated_share", "mislabelled", "precision", "pieces"):
        assert math.isnan(figure(nothing, name)), name
    assert math.isnan(figure(stories["perfect"], "boundary_errors"))


def test_overshoot_belongs_to_its_object_across_the_void(stories: dict[str, TestResult]) -> None:
    assert figure(stories["dilated"], "extent_errors") == 1
    assert figure(stories["ghost"], "segment_errors") == 1
    assert figure(stories["core only"], "segment_errors") == 0


@pytest.mark.parametrize("background", [0, 3, None])
def test_the_cells_sum_to_the_counted_pixels(background: int | None) -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 3, IGNORE], (20, 30)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, (20, 30)).astype(np.uint8)
    cells = error_categories(truth, labels, background)
    assert (cells[truth == IGNORE] == IGNORE).all()
    assert image_errors(truth, labels, CLASSES, background)["cells"].sum() == (truth != IGNORE).sum()
    wrong = np.isin(cells, (2, 3, 4, 5, 6))
    assert np.array_equal(wrong, (truth != labels) & (truth != IGNORE))
    if background is None:
        assert not np.isin(cells, (0, 2, 5, 6)).any()


def test_pixels_under_255_change_nothing_but_contours_drawn_through_it() -> None:
    truth = scene(1)
    labels = predictors(truth, CLASSES)["speckled"]
    other = np.where(truth == IGNORE, 5, labels).astype(np.uint8)
    a, b = image_errors(truth, labels, CLASSES, 0), image_errors(truth, other, CLASSES, 0)
    through = {"cracks", "contour_f", "contours", "phases", "changes", "false_positives"}
    assert all(np.array_equal(a[key], b[key]) for key in a if key not in through)


def test_the_partition_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1, 1, 1, 2, IGNORE]], np.uint8)
    labels = np.array([[0, 1, 3, 1, 0, 2, 4, 1]], np.uint8)
    kinds = [CATEGORIES[c] if c != IGNORE else "" for c in error_categories(truth, labels, 0)[0]]
    assert kinds == ["background", "overshoot", "ghost", "foreground", "missed", "confused", "foreign", ""]


@pytest.mark.parametrize(
    ("found", "purity", "right", "outcome"),
    [(0.24, 1, True, 0), (0.25, 0.79, True, 1), (0.25, 0.8, False, 2), (0.74, 0.8, True, 3), (0.75, 0.8, True, 4)],
)
def test_outcomes_at_their_limits(found: float, purity: float, right: bool, outcome: int) -> None:
    assert outcome_of(found, purity, right) == outcome


def test_objects_by_hand() -> None:
    """A 4×10 object found in two pieces of 2×4 and 2×2, beside a speck and one of 3 % that is missed."""
    truth = np.zeros((30, 40), np.uint8)
    truth[2:6, 2:12] = 1
    truth[20, 20] = 1
    truth[15:21, 30:36] = 2
    labels = np.zeros_like(truth)
    labels[2:4, 2:6] = 1
    labels[4:6, 9:11] = 1
    sums = object_sums(truth, labels, class_boxes(truth), 0)
    assert sums["outcomes"].tolist() == [1, 0, 0, 1, 0]
    assert (sums["pieces"], sums["class_pieces"], sums["found_objects"]) == (2, 2, 1)
    assert sums["coherence"] == pytest.approx(8 / 12)
    assert sums["size_pixels"].tolist() == [1, 76, 0]
    assert sums["size_missed"].tolist() == [1, 28 + 36, 0]


def test_without_a_background_what_needs_one_is_not_defined() -> None:
    truth = scene(2)
    tested = from_masks("x", [("a", truth, predictors(truth, CLASSES)["speckled"])], NAMES, None)
    for f in METRICS:
        if "background" in f.needs:
            assert f.of(tested) is None, f.name
    assert figure(tested, "objects_mixed") > 0
    assert figure(tested, "hallucinated") > 0


def test_two_classes_have_no_label_errors() -> None:
    truth = (scene(3) > 0).astype(np.uint8)
    tested = from_masks("x", [("a", truth, np.roll(truth, 3, 0))], ["background", "pet"], 0)
    for name in ("mislabelled", "hallucinated", "objects_mixed", "objects_wrong_label", "absent_classes"):
        assert by_name(name).of(tested) is None
    assert 0 < figure(tested, "missed") < 1


def test_where_errors_lie_by_hand() -> None:
    """100×100: 1 % of the diagonal is one pixel. A square grown by one row is a boundary error; a far end of the same
    segment is extent; another square is a segment."""
    truth = np.zeros((100, 100), np.uint8)
    truth[40:60, 40:60] = 1
    labels = truth.copy()
    labels[60, 40:60] = 1
    assert image_errors(truth, labels, 2, 0)["false_positives"].tolist() == [20, 0, 0]
    labels[61:63, 40:60] = 1
    places = image_errors(truth, labels, 2, 0)["false_positives"]
    assert places.tolist() == [2, 58, 0]  # its two corners are near others
    labels[80:90, 80:90] = 1
    assert image_errors(truth, labels, 2, 0)["false_positives"].tolist() == [2, 58, 100]
    assert image_errors(truth, np.zeros_like(truth), 2, 0)["false_negatives"].tolist() == [0, 0, 400]


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (23, 17)])
@pytest.mark.parametrize("reach", [1, 4, 12])
def test_dilation_and_erosion_are_those_of_scipy(shape: tuple[int, int], reach: int) -> None:
    area = np.random.default_rng(reach).random(shape) < 0.5
    for ours, filter_ in ((grown, ndimage.maximum_filter), (shrunk, ndimage.minimum_filter)):
        expected = filter_(area.view(np.uint8), 2 * reach + 1, mode="constant").view(bool)
        np.testing.assert_array_equal(ours(area, reach), expected)


@pytest.mark.parametrize("distance", [0.3, 1, 2.5, 5, 7.5])
def test_pixels_within_a_distance_are_those_of_the_distance_transform(distance: float) -> None:
    area = np.random.default_rng(0).random((40, 50)) < 0.01
    np.testing.assert_array_equal(within(area, distance), ndimage.distance_transform_edt(~area) <= distance)


def test_boxes_of_classes() -> None:
    labels = np.full((5, 6), 255, np.uint8)
    labels[1:3, 2] = 7
    labels[2, 4] = 0
    boxes = class_boxes(labels)
    assert list(boxes) == [0, 7, 255]
    assert boxes[7] == (slice(1, 3), slice(2, 3))
    assert union(boxes, {7: (slice(0, 1), slice(5, 6)), 3: np.s_[:2, :1]})[7] == (slice(0, 3), slice(2, 6))


def test_an_image_of_nothing_but_255_counts_nowhere() -> None:
    sums = image_errors(np.full((16, 16), IGNORE, np.uint8), np.ones((16, 16), np.uint8), 3, 0)
    assert all(not value.any() for value in sums.values())


def test_bands_and_contours_by_hand() -> None:
    square = np.zeros((11, 11), bool)
    square[3:8, 3:8] = True
    assert band(square, 1).sum() == 16
    assert band(square, 2).sum() == 24
    assert band(square, 3).sum() == 25
    assert contour(square, np.ones_like(square)).sum() == 16
    corner = np.zeros((6, 6), bool)
    corner[:3, :3] = True
    assert contour(corner, np.ones_like(corner)).sum() == 5  # the frame is no edge
    across, down = changes(square.astype(np.uint8), np.ones_like(square))
    assert (across.sum(), down.sum()) == (10, 10)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 8, 13, 26])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_void_strip_has_its_half_width(width: int, axis: int) -> None:
    truth = strip(64, width)
    void = truth == IGNORE
    distance, nearest = ndimage.distance_transform_edt(void, return_indices=True)
    whole = truth[tuple(nearest)]
    if axis == 0:
        void, whole, distance, nearest = void.T, whole.T, distance.T, np.stack([nearest[1].T, nearest[0].T])
    assert half_widths(whole, distance, nearest, axis) == pytest.approx(np.full(64, width / 2))
    assert len(half_widths(whole, distance, nearest, 1 - axis)) == 0
    assert narrow(distance, width / 2).all()
    assert np.array_equal(narrow(distance, width / 2 - 1), ~void)


def strip(side: int, width: int) -> np.ndarray:
    """Two classes with a strip of void between them."""
    truth = np.zeros((side, side), np.uint8)
    truth[:, side // 4 :] = IGNORE
    truth[:, side // 4 + width :] = 1
    return truth


def test_edges_end_at_void_of_one_side() -> None:
    """Padding between whose nearest labels an edge would go on: 30 rows of it say nothing of the edge's 34."""
    truth = strip(64, 0)
    truth[:30] = IGNORE
    filled = fill_void(truth)
    assert (filled.unsure, filled.edge) == (0, 34)
    assert filled.labels[0, 0] == IGNORE


def test_confidence_knows_edges_through_narrow_void() -> None:
    near = near_edges(fill_void(strip(40, 2)))  # one pixel, 2 % of the diagonal
    assert near[:, 9].all()
    assert not near[:, :9].any()


@pytest.mark.parametrize("side", [64, 512, 1024])
@pytest.mark.parametrize("wide", [False, True])
def test_boundary_f_is_not_defined_where_the_void_is_wider_than_its_tolerance(side: int, wide: bool) -> None:
    """Half-widths on either side of .0075 of the diagonal: .68, 5.43 and 10.86 px."""
    width = 2 * int(tolerance((side, side))) + 2 * wide
    truth = strip(side, width)
    moved = (np.arange(side) >= side // 4 + width // 2 + int(0.9 * tolerance((side, side)))).astype(np.uint8)
    tested = from_masks("x", [("a", truth, np.broadcast_to(moved, truth.shape))], NAMES[:2], 0)
    if wide:
        assert by_name("boundary_f").of(tested) is None
    else:
        assert figure(tested, "boundary_f") == 1  # anywhere within the tolerance is right


def test_pets_border_at_512_pixels_leaves_no_edge_to_judge() -> None:
    """A ring of void 25 px wide: within 5 px of a label alone, its half-width of 12.5 would seem 4.6."""
    y, x = np.mgrid[:512, :512]
    radius = np.hypot(y - 256, x - 256)
    truth = np.where(abs(radius - 150) < 12.5, IGNORE, radius < 150).astype(np.uint8)
    tested = from_masks("x", [("a", truth, (radius + 6 < 150).astype(np.uint8))], NAMES[:2], 0)
    assert tested.sums["edge_unsure"][0] == tested.sums["edge_length"][0] == pytest.approx(8 * 150, rel=0.01)
    assert by_name("boundary_f").of(tested) is None
    assert math.isnan(figure(tested, "roughness"))


def test_edges_through_wide_void_are_left_out_where_most_are_known() -> None:
    """Class 2 meets class 0 without void, and class 1 across 30 px of it: what is predicted there is right or wrong."""
    truth = strip(128, 30)
    truth[64:] = strip(64, 0).repeat(2, 1)[:, :128] * 2
    labels = np.where(truth == IGNORE, np.arange(128) % 2, truth).astype(np.uint8)
    tested = from_masks("x", [("a", truth, labels)], NAMES[:3], 0)
    assert 0 < tested.sums["edge_unsure"][0] < tested.sums["edge_length"][0] / 2
    assert figure(tested, "boundary_f") == 1
    assert figure(tested, "roughness") == pytest.approx(1, abs=0.05)  # a disc leaves the strip's corners


def test_blockiness_knows_nearest_from_smooth() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 2, (2, 32, 32)).astype(np.uint8)
    free = rng.integers(0, 2, (128, 128)).astype(np.uint8)
    blocky = coarse[0].repeat(4, 0).repeat(4, 1)
    values = {}
    for name, labels in (("blocky", blocky), ("free", free)):
        where = changes(labels, np.ones_like(labels, bool))
        values[name] = blockiness(phases(where), np.array([c.sum() for c in where]))
    assert values["blocky"][:2] == pytest.approx([1, 1], abs=0.01)
    assert values["blocky"][2] < 0.1
    assert (values["free"] < 0.1).all()
    assert np.isnan(blockiness(np.zeros((2, 3, 2)), np.array([99, 500]))).all()


def test_blockiness_of_a_split_adds_images(stories: dict[str, TestResult]) -> None:
    assert np.isnan(blocks(stories["all background"], 2)[0])
    assert all(blocks(stories["perfect"], step)[0] < 0.1 for step in (2, 4, 8))


def test_the_worst_images_by_hand() -> None:
    truth = np.array([[0, 1]], np.uint8)
    pairs = [(str(i), truth, truth if i else 1 - truth) for i in range(20)]
    tested = from_masks("x", pairs, NAMES[:2], 0)
    assert image_miou(tested).tolist() == [0] + [1] * 19
    assert worst(tested)[0] == 0
    assert worst(tested, 0.1)[0] == 0.5


def test_the_error_of_the_worst_images_is_that_of_drawing_them_again() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 200, 400)
    truth = np.zeros((1, 200), np.uint8)
    pairs = [(str(i), truth, (np.arange(200) < n)[None].astype(np.uint8)) for i, n in enumerate(sizes)]
    tested = from_masks("x", pairs, NAMES[:2], 0)
    value, influences = worst(tested, 0.2)
    assert value == pytest.approx(np.sort(1 - sizes / 200)[:80].mean())
    assert abs(influences.mean()) < 1e-9
    scores = 1 - sizes / 200
    drawn = [np.sort(scores[rng.integers(0, 400, 400)])[:80].mean() for _ in range(2000)]
    assert influences.std(ddof=1) / 20 == pytest.approx(np.std(drawn), rel=0.1)


def test_blockiness_knows_what_each_image_adds(stories: dict[str, TestResult]) -> None:
    tested = stories["perfect"]
    value, influences = blocks(tested, 8)
    first = {key: sums[1:] for key, sums in tested.sums.items()}
    without, _ = blocks(replace(tested, sums=first), 8)
    assert influences[0] == pytest.approx((len(influences) - 1) * (value - without))


def test_classes_of_an_image_are_those_at_its_original_size() -> None:
    """The only pixel of class 2 is lost at network size, where class 2 is predicted on 5 of background and 3 of
    class 1: overshoot and confused; class 3, on 2 of background, is in neither."""
    original = torch.zeros(64, 64, dtype=torch.long)
    original[:, 32:] = 1
    original[33, 7] = 2
    mask = original[::4, ::4]
    labels = mask.clone()
    labels[0, :5], labels[1, :2], labels[0, 8:11] = 2, 3, 2
    logits = 9 * torch.nn.functional.one_hot(labels, 4).permute(2, 0, 1)[None].float()
    counts = PerImageConfusion()
    measures = PerImageErrors()

    class Data(SegmentationData):
        classes = list("abcd")

        def original_mask(self, role: str, index: int) -> torch.Tensor:
            return original

    trainer = SimpleNamespace(
        datamodule=Data(),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        callbacks=[counts, measures],
    )
    batch = {"image": torch.zeros(1, 3, 16, 16), "mask": mask[None], "labels": labels[None], "index": torch.tensor([0])}

    class Module(SimpleNamespace):
        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return logits

    module = Module(classes=list("abcd"), background=0)
    for callback in trainer.callbacks:
        callback.setup(trainer, module, "test")
        callback.on_test_start(trainer, None)
        callback.on_test_batch_end(trainer, module, logits, batch)
    cells = dict(zip(CATEGORIES, measures.images[0]["cells"].tolist(), strict=True))
    assert {k: cells[k] for k in CATEGORIES[3:]} == {"confused": 3, "foreign": 0, "overshoot": 5, "ghost": 2}
    assert measures.images[0]["absent"] == 1
    assert measures.images[0]["offset_cells"][3].tolist() == list(cells.values())
    assert measures.images[0]["offset_margins"].sum(0).tolist() == [125, 3, 0, 126, 2]  # 121: at large offsets alone
