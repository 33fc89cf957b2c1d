"""Laws of the boxes: formats and frames go round, overlap is a symmetric ratio, matching is optimal whatever the order.

    pytest tests/test_boxes.py

Axes: N boxes against M others.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visual_rft.boxes import convert, giou_matrix, iou_matrix, match, whole, xywh_to_xyxy, xyxy_to_xywh
from visual_rft.frames import NORM1000, Original, Resized

laws = settings(deadline=None, max_examples=100)
starts, sides = st.integers(0, 900), st.integers(1, 100)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), starts, starts, sides, sides)
some = st.lists(boxes, max_size=5)
tenths = st.integers(0, 10).map(lambda tenth: tenth / 10)
ious = st.integers(0, 5).flatmap(lambda n: st.integers(0, 5).flatmap(lambda m: st.lists(st.floats(0, 1) | tenths, min_size=n * m, max_size=n * m).map(
    lambda values: np.reshape(values, (n, m)))))  # fmt: skip
conversions = pytest.mark.parametrize("conversion", [
    xywh_to_xyxy,
    xyxy_to_xywh,
    lambda b: convert(b, of=Original(640, 480), to=NORM1000),
    lambda b: convert(b, of=NORM1000, to=Resized(644, 476)),
    lambda b: np.reshape(whole(b, of=Original(640, 480), to=NORM1000), (-1, 4)),
])  # fmt: skip
frames = (
    st.builds(Original, st.integers(1, 5000), st.integers(1, 5000))
    | st.builds(Resized, st.integers(1, 5000), st.integers(1, 5000))
    | st.just(NORM1000)
)
# A box in shares of the image, and up to half of it over an edge; as thin as one likes.
shares = (
    st.tuples(st.floats(-0.5, 1), st.floats(1e-6, 1))
    .map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
    .filter(lambda span: span[1] > 0 and span[0] < 1)
)
overlaps = pytest.mark.parametrize("overlap", [iou_matrix, giou_matrix])


@laws
@given(some)
def test_formats_go_round(drawn):
    assert xywh_to_xyxy(xyxy_to_xywh(drawn)).tolist() == [list(map(float, box)) for box in drawn]
    assert xyxy_to_xywh(xywh_to_xyxy(drawn)).tolist() == [list(map(float, box)) for box in drawn]


@laws
@given(some, frames, frames)
def test_frames_go_round(drawn, of, to):
    there = convert(drawn, of=of, to=to)
    assert there.shape == (len(drawn), 4)
    assert convert(there, of=to, to=of) == pytest.approx(np.reshape(drawn, (-1, 4)), rel=1e-12)
    assert convert(drawn, of=of, to=of).tolist() == [list(map(float, box)) for box in drawn], "in its own frame to the last bit"


@laws
@given(some, frames, frames, frames)
def test_a_detour_through_another_frame_changes_nothing(drawn, of, over, to):
    assert convert(convert(drawn, of=of, to=over), of=over, to=to) == pytest.approx(convert(drawn, of=of, to=to), rel=1e-12)


@laws
@given(frames, frames)
def test_the_image_is_the_whole_image_in_every_frame(of, to):
    assert convert([(0, 0, of.width, of.height)], of=of, to=to)[0] == pytest.approx((0, 0, to.width, to.height))
    assert whole([(0, 0, of.width, of.height)], of=of, to=to) == ((0, 0, to.width, to.height),)


@settings(deadline=None, max_examples=500)
@given(shares, shares, frames, frames)
def test_whole_boxes_lie_in_the_image_have_area_and_are_no_further_off_than_they_must(x, y, of, to):
    box = (x[0] * of.width, y[0] * of.height, x[1] * of.width, y[1] * of.height)
    (said,) = whole([box], of=of, to=to)
    (exact,) = convert([box], of=of, to=to).tolist()
    for side, most in ((0, to.width), (1, to.height)):
        low, high = said[side], said[side + 2]
        assert low == int(low) and high == int(high) and 0 <= low < high <= most
        inside = [min(max(end, 0.0), most) for end in (exact[side], exact[side + 2])]
        off = max(abs(low - inside[0]), abs(high - inside[1]))
        assert off <= 0.5 + 1e-9 or (high == low + 1 and off <= 1 + 1e-9), "within half a unit; a side that this would lose is one unit long"
        assert low <= inside[0] + 0.5 + 1e-9 and high >= inside[1] - 0.5 - 1e-9


@laws
@given(some, frames, frames)
def test_whole_boxes_stay_as_they_are(drawn, of, to):
    once = whole(drawn, of=Original(1000, 1000), to=to)
    assert whole(once, of=to, to=to) == once


@conversions
@laws
@given(drawn=some)
def test_a_batch_is_its_boxes_one_by_one(conversion, drawn):
    assert conversion(drawn).tolist() == [conversion([box])[0].tolist() for box in drawn]


@conversions
def test_no_boxes_give_no_boxes(conversion):
    assert conversion([]).shape == conversion(np.zeros((0, 4))).shape == (0, 4)


def test_whole_boxes_by_hand():
    assert whole([[-5, 12.3, 700, 240]], of=Original(640, 480), to=NORM1000) == ((0, 26, 1000, 500),)
    assert whole([[100.2, 50, 100.4, 240]], of=Original(640, 480), to=NORM1000) == ((156, 104, 157, 500),), "thinner than half a unit"
    assert whole([[639.9, 479.9, 640, 480]], of=Original(640, 480), to=NORM1000) == ((999, 999, 1000, 1000),), "in the last corner"
    assert whole([[10, 20, 30, 40]], of=Original(100, 100), to=Resized(56, 84)) == ((6, 17, 17, 34),)


@overlaps
@laws
@given(a=some, b=some)
def test_overlap_is_symmetric_and_pairwise(overlap, a, b):
    together = overlap(a, b)
    assert together.shape == (len(a), len(b))
    assert (together == overlap(b, a).T).all()
    assert all(together[n, m] == overlap([a[n]], [b[m]])[0, 0] for n, m in np.ndindex(together.shape))


@laws
@given(some, some)
def test_overlap_has_its_limits(a, b):
    iou, giou = iou_matrix(a, b), giou_matrix(a, b)
    assert ((iou >= 0) & (iou <= 1)).all() and ((giou > -1) & (giou <= iou + 1e-12)).all()
    assert (np.diag(iou_matrix(a, a)) == 1).all() and (np.diag(giou_matrix(a, a)) == 1).all()


@laws
@given(boxes, boxes, st.floats(0.1, 10), st.floats(0.1, 10))
def test_overlap_ignores_the_frame(a, b, horizontally, vertically):
    scale = np.array([horizontally, vertically] * 2)
    assert iou_matrix(a * scale[None], b * scale[None]) == pytest.approx(iou_matrix([a], [b]))


def test_overlap_by_hand():
    assert iou_matrix([[0, 0, 2, 2]], [[1, 1, 3, 3], [2, 2, 3, 3], [0, 0, 2, 1]])[0] == pytest.approx([1 / 7, 0, 1 / 2])
    assert giou_matrix([[0, 0, 2, 2]], [[1, 1, 3, 3], [2, 2, 3, 3]])[0] == pytest.approx([1 / 7 - 2 / 9, -4 / 9])


@overlaps
@pytest.mark.parametrize("degenerate", [(1, 1, 1, 2), (3, 1, 2, 2), (3, 3, 1, 1), (0, 0, float("nan"), 1), (0, 0, 1e-200, 1e-200)])
def test_a_box_without_area_is_refused(overlap, degenerate):
    for a, b in itertools.permutations([[degenerate], [(0, 0, 1, 1)]]):
        with pytest.raises(ValueError, match="no area"):
            overlap(a, b)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 4)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        xywh_to_xyxy(np.zeros(shape))


def test_an_impossible_image_or_number_is_refused():
    with pytest.raises(ValueError, match="positive"):
        Original(0, 10)
    for number in ("nan", "inf", "-inf"):
        with pytest.raises(ValueError, match="NaN or infinity"):
            whole([[0, 0, 1, float(number)]], of=Original(10, 10), to=NORM1000)


def best_total(iou_NM: np.ndarray, above: float) -> float:
    """The best total over all one-to-one pairings, by trying them all."""
    counted = np.where(iou_NM > above, iou_NM, 0)
    counted = counted if counted.shape[0] <= counted.shape[1] else counted.T
    columns = itertools.permutations(range(counted.shape[1]), counted.shape[0])
    return max(sum(counted[n, m] for n, m in enumerate(chosen)) for chosen in columns)


@laws
@given(ious, st.sampled_from([0.0, 0.3, 0.5, 0.75]))
def test_matching_is_one_to_one_and_optimal(iou_NM, above):
    pairs = match(iou_NM, above=above)
    assert pairs == sorted(pairs) and all(len(set(side)) == len(pairs) for side in zip(*pairs, strict=True))
    assert all(iou_NM[pair] > above for pair in pairs)
    assert sum(iou_NM[pair] for pair in pairs) == pytest.approx(best_total(iou_NM, above))


@laws
@given(ious.filter(lambda iou_NM: iou_NM.size), st.randoms())
def test_matching_is_indifferent_to_order(iou_NM, random):
    rows, columns = (random.sample(range(size), size) for size in iou_NM.shape)
    shuffled = iou_NM[np.ix_(rows, columns)]
    totals = [sum(matrix[pair] for pair in match(matrix, above=0.2)) for matrix in (iou_NM, shuffled, iou_NM.T)]
    assert totals == pytest.approx([totals[0]] * 3)


def test_a_pair_below_the_threshold_displaces_none_that_counts():
    # Over all pairs 0.49 + 0.49 would beat 0.9 + 0; of those that count, there is only the 0.9.
    assert match([[0.9, 0.49], [0.49, 0.0]], above=0.5) == [(0, 0)]
    assert match([[0.9, 0.6], [0.8, 0.0]], above=0.5) == [(0, 1), (1, 0)]
    # Every row and column holds a pair that counts, and still 0.51 + 0.49 + 0.9 must not beat 0.9 + 0.9.
    assert match([[0.9, 0.51, 0.0], [0.49, 0.0, 0.51], [0.0, 0.0, 0.9]], above=0.5) == [(0, 0), (2, 2)]
    assert match([[0.5]], above=0.5) == []
