"""Laws of what is said of detection beyond average precision: it knows no order, and counts what could not be read.

pytest tests/test_metrics_detection.py
"""

import random
from dataclasses import replace

import pytest

from visual_rft.frames import Box
from visual_rft.metrics.detection import Query, mean_iou, rightly_empty, well_formed
from visual_rft.vocabulary import Detection, DetectionAnswer, Reason, Refusal

CAT = (100.0, 200.0, 300.0, 400.0)
DOG = (500.0, 600.0, 900.0, 800.0)
HALF = (100.0, 200.0, 300.0, 300.0)


def asked(truth: tuple[Box, ...], *found: Detection) -> Query:
    return Query(1, "cat", truth, DetectionAnswer(found))


def refused(truth: tuple[Box, ...]) -> Query:
    return Query(1, "cat", truth, Refusal(Reason.TRUNCATED))


def some_queries(seed: int) -> list[Query]:
    """120 queries with noisy answers, misses, junk and refusals."""
    draw = random.Random(seed)

    def a_box() -> Box:
        x, y = draw.randint(0, 700), draw.randint(0, 700)
        return float(x), float(y), float(x + draw.randint(20, 300)), float(y + draw.randint(20, 300))

    def near(box: Box) -> Box:
        x1, y1, x2, y2 = (corner + draw.randint(-9, 9) for corner in box)
        return x1, y1, x2, y2

    queries = []
    for image_id in range(120):
        truth = tuple(a_box() for _ in range(draw.randint(0, 4)))
        boxes = [near(box) for box in truth if draw.random() < 0.8] + [a_box() for _ in range(draw.randint(0, 2))]
        answer = DetectionAnswer(tuple(Detection(box, draw.random()) for box in boxes))
        queries.append(Query(image_id, "cat", truth, Refusal(Reason.TRUNCATED) if draw.random() < 0.1 else answer))
    return queries


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_queries_means_nothing_to_the_last_bit(seed):
    queries = some_queries(2)
    shuffled = random.Random(seed).sample(queries, len(queries))
    for metric in (mean_iou, rightly_empty, well_formed):
        assert metric(shuffled) == metric(queries)
        assert 10 < metric(queries) < 95


def test_any_iterable_will_do():
    queries = some_queries(1)
    for metric in (mean_iou, rightly_empty, well_formed):
        assert metric(iter(queries)) == metric(queries)


def test_each_axis_has_its_scale():
    def stretched(box: Box) -> Box:
        return box[0] * 0.64, box[1] * 3, box[2] * 0.64, box[3] * 3

    def elsewhere(query: Query) -> Query:
        truth = tuple(stretched(box) for box in query.truth)
        if isinstance(query.answer, Refusal):
            return replace(query, truth=truth)
        return replace(query, truth=truth, answer=DetectionAnswer(tuple(replace(one, box=stretched(one.box)) for one in query.answer.detections)))

    queries = some_queries(3)
    assert mean_iou(map(elsewhere, queries)) == pytest.approx(mean_iou(queries))


def test_perfect_answers_score_100():
    queries = [asked((CAT, DOG), Detection(DOG, 1), Detection(CAT, 0.5)), asked((DOG,), Detection(DOG, 0.1)), asked(())]
    assert (mean_iou(queries), rightly_empty(queries), well_formed(queries)) == (100, 100, 100)


@pytest.mark.parametrize("queries", [[], [asked(())], [asked((CAT,))], [asked((), Detection(CAT, 1))], [refused(())]])
def test_nothing_to_find_or_nothing_found_has_no_iou(queries):
    assert mean_iou(queries) == 0


def test_mean_iou_by_hand():
    queries = [asked((CAT, DOG), Detection(HALF, 0.1), Detection((0, 0, 9, 9), 1)), asked((CAT,), Detection(CAT, 0), Detection(HALF, 1))]
    assert mean_iou(queries) == pytest.approx(100 * (0.5 + 0 + 1) / 3)


def test_a_query_without_truth_has_no_say_in_the_mean_iou():
    queries = some_queries(4)
    assert mean_iou([*queries, asked(()), asked((), Detection(CAT, 1)), refused(())]) == mean_iou(queries)


def test_a_refused_query_misses_its_truths_and_is_counted():
    queries = [asked((CAT,), Detection(CAT, 1)), refused((CAT,)), refused(()), refused((DOG, CAT))]
    assert mean_iou(queries) == mean_iou([queries[0], asked((CAT,)), asked(()), asked((DOG, CAT))]) == 25
    assert well_formed(queries) == 25 and well_formed(queries[:1]) == 100 and well_formed([]) == 0


def test_rightly_empty_is_the_share_of_empty_answers_where_there_is_nothing():
    with_truth = [asked((CAT,)), refused((CAT,)), asked((CAT,), Detection(CAT, 1))]
    assert rightly_empty([]) is None and rightly_empty(with_truth) is None
    assert rightly_empty([asked(()), *with_truth]) == 100
    assert rightly_empty([asked(()), asked((), Detection(CAT, 0)), refused(()), asked(()), *with_truth]) == 50


def test_a_true_box_without_area_is_refused_whatever_the_answer():
    for query in (asked(((1, 1, 1, 2),)), asked(((1, 1, 1, 2),), Detection(CAT, 1)), refused(((1, 1, 1, 2),))):
        with pytest.raises(ValueError, match="no area"):
            mean_iou([query])
