"""Laws of the detection metrics: they are pycocotools' own, do not depend on order, and count what could not be read.

pytest tests/test_metrics_detection.py
"""

import json
import random
from dataclasses import replace

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visual_rft.metrics.detection import DetectionMetrics, ScoredQuery, detection_metrics
from visual_rft.vocabulary import Box, Detection, DetectionAnswer, Reason, Refusal

CATEGORIES = ("cat", "dog", "bus")
CAT = (100.0, 200.0, 300.0, 400.0)
DOG = (500.0, 600.0, 900.0, 800.0)


def asked(truth: tuple[Box, ...], *found: Detection, image_id: int = 1, category: str = "cat") -> ScoredQuery:
    return ScoredQuery(image_id, category, 640, 480, truth, DetectionAnswer(found))


def some_queries(seed: int) -> list[ScoredQuery]:
    """60 images, two categories asked of each, with noisy answers, equal confidences, misses, junk and refusals; `bus` is nowhere."""
    draw = random.Random(seed)

    def a_box() -> Box:
        x, y = draw.randint(0, 700), draw.randint(0, 700)
        return float(x), float(y), float(x + draw.randint(20, 300)), float(y + draw.randint(20, 300))

    def near(box: Box) -> Box:
        x1, y1, x2, y2 = (corner + draw.randint(-9, 9) for corner in box)
        return x1, y1, x2, y2

    queries = []
    for image_id in range(60):
        for category in ("cat", "dog"):
            truth = tuple(a_box() for _ in range(draw.randint(0, 4)))
            boxes = [near(box) for box in truth if draw.random() < 0.8] + [a_box() for _ in range(draw.randint(0, 2))]
            answer: DetectionAnswer | Refusal = DetectionAnswer(tuple(Detection(box, draw.randint(0, 10) / 10) for box in boxes))
            answer = Refusal(Reason.TRUNCATED) if draw.random() < 0.1 else answer
            queries.append(ScoredQuery(image_id, category, draw.randint(200, 900), draw.randint(200, 900), truth, answer))
    return queries


def by_hand(queries: list[ScoredQuery], folder) -> list[float]:
    """AP, AP50, AP75 of pycocotools on COCO files of the same boxes in pixels."""

    def annotation(query: ScoredQuery, box: Box) -> dict[str, object]:
        x, y = box[0] * query.width / 1000, box[1] * query.height / 1000
        w, h = (box[2] - box[0]) * query.width / 1000, (box[3] - box[1]) * query.height / 1000
        return {"image_id": query.image_id, "category_id": CATEGORIES.index(query.category) + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}

    truths = [annotation(query, box) | {"id": 0} for query in queries for box in query.truth]
    truths = [truth | {"id": n + 1} for n, truth in enumerate(truths)]
    answered = [(query, query.answer) for query in queries if isinstance(query.answer, DetectionAnswer)]
    found = [annotation(query, one.box) | {"score": one.confidence} for query, answer in answered for one in answer.detections]
    images = [{"id": image_id} for image_id in {query.image_id for query in queries}]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(CATEGORIES)]
    (folder / "truth.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": truths}))
    (folder / "found.json").write_text(json.dumps(found))
    coco = COCO(folder / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * float(score) for score in evaluation.stats[:3]]


@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_pycocotools_run_by_hand(seed, tmp_path):
    queries = some_queries(seed)
    metrics = detection_metrics(queries, CATEGORIES)
    assert [metrics.ap, metrics.ap50, metrics.ap75] == pytest.approx(by_hand(queries, tmp_path), abs=1e-9)
    assert 20 < metrics.ap < metrics.ap50 < 90


def test_ap_is_the_mean_of_its_categories_and_each_stands_alone():
    queries = some_queries(0)
    metrics = detection_metrics(queries, CATEGORIES)
    assert list(metrics.ap_by_category) == ["cat", "dog"]
    assert metrics.ap == pytest.approx(sum(metrics.ap_by_category.values()) / 2)
    for category, ap in metrics.ap_by_category.items():
        assert detection_metrics([query for query in queries if query.category == category], CATEGORIES).ap == pytest.approx(ap)


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_queries_means_nothing_to_the_last_bit(seed):
    queries = some_queries(2)
    shuffled = random.Random(seed).sample(queries, len(queries))
    assert detection_metrics(shuffled, CATEGORIES) == detection_metrics(queries, CATEGORIES)


def test_only_the_ranking_of_confidences_matters():
    queries = some_queries(2)

    def squeezed(query: ScoredQuery) -> ScoredQuery:
        if isinstance(query.answer, Refusal):
            return query
        return replace(query, answer=DetectionAnswer(tuple(Detection(one.box, one.confidence**2 / 2) for one in query.answer.detections)))

    assert detection_metrics([squeezed(query) for query in queries], CATEGORIES) == detection_metrics(queries, CATEGORIES)


def test_perfect_answers_score_100():
    queries = [asked((CAT, DOG), Detection(DOG, 1), Detection(CAT, 0.5)), asked((DOG,), Detection(DOG, 0.1), category="dog")]
    metrics = detection_metrics(queries, CATEGORIES)
    assert metrics == DetectionMetrics(*[pytest.approx(100)] * 3, {"cat": pytest.approx(100), "dog": pytest.approx(100)}, 100, 100, {})


@pytest.mark.parametrize("queries", [[], [asked(())], [asked((CAT,))], [asked((), Detection(CAT, 1))]])
def test_nothing_to_find_or_nothing_found_scores_0(queries):
    metrics = detection_metrics(queries, CATEGORIES)
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.mean_iou) == (0, 0, 0, 0)
    assert metrics.ap_by_category == ({"cat": 0} if queries and queries[0].truth else {})


def test_a_refused_query_misses_its_truths_and_is_counted():
    queries = [asked((CAT,), Detection(CAT, 1)), asked((CAT,), image_id=2), asked((), image_id=3), asked((DOG,), image_id=4)]
    refused = [queries[0], *(replace(query, answer=Refusal(Reason.NO_THINK)) for query in queries[1:3])]
    refused.append(replace(queries[3], answer=Refusal(Reason.BAD_BOX)))
    empty, counted = detection_metrics(queries, CATEGORIES), detection_metrics(refused, CATEGORIES)
    assert replace(counted, well_formed=100, refusals={}) == empty
    assert counted.well_formed == 25 and counted.refusals == {Reason.NO_THINK: 2, Reason.BAD_BOX: 1}


def test_mean_iou_by_hand():
    half = (100.0, 200.0, 300.0, 300.0)
    queries = [asked((CAT, DOG), Detection(half, 0.1), Detection((0, 0, 9, 9), 1)), asked((CAT,), Detection(CAT, 0), Detection(half, 1), image_id=2)]
    assert detection_metrics(queries, CATEGORIES).mean_iou == pytest.approx(100 * (0.5 + 0 + 1) / 3)


def test_nothing_is_printed(capsys):
    detection_metrics(some_queries(0), CATEGORIES)
    assert capsys.readouterr() == ("", "")


def test_a_query_of_another_category_or_asked_twice_is_refused():
    with pytest.raises(ValueError, match="'cow'"):
        detection_metrics([asked((CAT,), category="cow")], CATEGORIES)
    with pytest.raises(ValueError, match="2 times"):
        detection_metrics([asked((CAT,)), asked((CAT,))], CATEGORIES)
