"""Laws of the mask metrics and of painting: `pytest tests/test_metrics_masks.py`.

Axes: H rows, W columns of pixels.
"""

import numpy as np
import numpy.typing as npt
import pytest

from visual_rft.images import Outline, Polygon
from visual_rft.metrics.masks import IGNORED, INSIDE, OUTSIDE, Masks, mask_scores, paint


def some_masks(seed: int, count: int = 30) -> list[Masks]:
    """Truths with ignored pixels, and what was found: something near the truth, nothing, or anything; images of several sizes."""
    rng = np.random.default_rng(seed)
    pairs: list[Masks] = []
    for _ in range(count):
        shape = tuple(rng.integers(3, 20, 2))
        truth = rng.choice(np.array([OUTSIDE, INSIDE, IGNORED], np.uint8), shape, p=[0.5, 0.4, 0.1]) * np.uint8(rng.random() > 0.1)
        near = (truth == INSIDE) ^ (rng.random(shape) < rng.choice([0.0, 0.2, 0.5]))
        pairs.append((truth, near & (rng.random() > 0.1)))
    return pairs


def box_mask(height: int, width: int, rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def as_truth(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return mask.astype(np.uint8)


def test_masks_by_hand():
    """Half of a mask found; another missed; a third found with as much around it."""
    truth = box_mask(10, 10, slice(0, 4), slice(0, 10))
    pairs = [
        (as_truth(truth), box_mask(10, 10, slice(0, 2), slice(0, 10))),  # 20 of 40
        (as_truth(box_mask(4, 4, slice(0, 1), slice(0, 1))), box_mask(4, 4, slice(3, 4), slice(3, 4))),  # 0 of 2
        (as_truth(truth), box_mask(10, 10, slice(0, 8), slice(0, 10))),  # 40 of 80
    ]
    assert mask_scores(pairs) == pytest.approx({"gIoU": 100 * (0.5 + 0 + 0.5) / 3, "cIoU": 100 * 60 / 122})


@pytest.mark.parametrize("seed", range(5))
def test_scores_lie_between_0_and_100_and_truth_itself_gets_100(seed):
    pairs = some_masks(seed)
    assert all(0 <= value <= 100 for value in mask_scores(pairs).values())
    assert mask_scores([(truth, truth == INSIDE) for truth, _ in pairs]) == {"gIoU": 100, "cIoU": 100}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_images_means_nothing_to_the_last_bit(seed):
    pairs = some_masks(seed)
    assert mask_scores(pairs) == mask_scores(pairs[::-1]) == mask_scores(iter(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_where_nothing_is_scored_means_nothing(seed):
    pairs = some_masks(seed)
    assert mask_scores([(truth, found | (truth == IGNORED)) for truth, found in pairs]) == mask_scores(pairs)
    assert mask_scores([(truth, found & (truth != IGNORED)) for truth, found in pairs]) == mask_scores(pairs)


def test_of_one_image_both_scores_are_its_iou():
    for pair in some_masks(7):
        scores = mask_scores([pair])
        assert scores["gIoU"] == pytest.approx(scores["cIoU"]) or not ((pair[0] == INSIDE).any() or (pair[1] & (pair[0] != IGNORED)).any())


def test_large_images_weigh_more_in_ciou_alone():
    small, large = box_mask(4, 4, slice(0, 2), slice(0, 4)), box_mask(40, 40, slice(0, 20), slice(0, 40))
    nothing = np.zeros((4, 4), dtype=np.bool_)
    scores = mask_scores([(as_truth(small), nothing), (as_truth(large), large)])
    assert scores["gIoU"] == 50 and scores["cIoU"] > 98


def test_nothing_found_of_nothing_is_right_and_changes_no_union():
    nothing = np.zeros((3, 5), dtype=np.bool_)
    assert mask_scores([(as_truth(nothing), nothing)]) == {"gIoU": 100, "cIoU": 0}
    pairs = some_masks(3)
    assert mask_scores([*pairs, (as_truth(nothing), nothing)])["cIoU"] == mask_scores(pairs)["cIoU"]
    assert mask_scores([(as_truth(nothing), ~nothing)]) == {"gIoU": 0, "cIoU": 0}


def test_nothing_asked_scores_0_and_masks_of_another_size_are_refused():
    assert mask_scores([]) == {"gIoU": 0, "cIoU": 0}
    with pytest.raises(ValueError, match="at its own size"):
        mask_scores([(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.bool_))])


# Painting


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def test_a_rectangle_covers_its_pixels_and_its_border():
    mask = paint(Outline((rectangle(2, 1, 5, 3),)), (8, 6))
    assert mask.shape == (6, 8) and mask.dtype == np.uint8
    assert (mask == box_mask(6, 8, slice(1, 4), slice(2, 6))).all()


def test_corners_are_cut_to_whole_pixels_and_what_is_outside_the_image_is_dropped():
    assert (paint(Outline((rectangle(2.9, 1.9, 5.9, 3.1),)), (8, 6)) == paint(Outline((rectangle(2, 1, 5, 3),)), (8, 6))).all()
    assert (paint(Outline((rectangle(-50, -50, 2, 1),)), (8, 6)) == box_mask(6, 8, slice(0, 2), slice(0, 3))).all()
    assert not paint(Outline((rectangle(20, 20, 30, 30),)), (8, 6)).any()


def test_the_smaller_shape_lies_above_whatever_the_order():
    whole, hole, island = rectangle(0, 0, 19, 19), rectangle(5, 5, 14, 14), rectangle(8, 8, 10, 10)
    for polygons in ((whole, island), (island, whole)):
        mask = paint(Outline(polygons, (hole,)), (20, 20))
        assert (mask[9, 9], mask[6, 6], mask[1, 1]) == (INSIDE, IGNORED, INSIDE)
    assert paint(Outline((hole,), (whole,)), (20, 20))[9, 9] == INSIDE


def test_several_shapes_are_all_of_the_thing_and_no_shape_is_nothing():
    mask = paint(Outline((rectangle(0, 0, 1, 1), rectangle(6, 4, 7, 5))), (8, 6))
    assert mask.sum() == 8 and mask[0, 0] == mask[5, 7] == INSIDE and mask[2, 4] == OUTSIDE
    assert not paint(Outline(()), (8, 6)).any()
