"""Laws of average precision: it is the libraries' own to the last digit, knows no order, and punishes what LVIS's labels can judge, no more.

pytest tests/test_average_precision.py
"""

import json
import random
from dataclasses import replace

import faster_coco_eval
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from visual_rft.frames import Box
from visual_rft.metrics.average_precision import (
    AveragePrecision,
    Federation,
    FoundBox,
    TruthBox,
    coco_average_precision,
    lvis_average_precision,
)

CATEGORIES = tuple(f"category {k}" for k in range(12))
CAT = (10.0, 20.0, 30.0, 40.0)
DOG = (50.0, 60.0, 70.0, 40.0)
NOTHING_KNOWN = Federation({}, {})
TOP = pytest.approx(100)


def label(bbox_xywh: Box = CAT, *, image_id: int = 1, category: str = "cat", crowd: bool = False) -> TruthBox:
    return TruthBox(image_id, category, bbox_xywh, bbox_xywh[2] * bbox_xywh[3], crowd)


def drawn(bbox_xywh: Box = CAT, score: float = 1.0, *, image_id: int = 1, category: str = "cat") -> FoundBox:
    return FoundBox(image_id, category, bbox_xywh, score)


def absent_from(*image_ids: int, category: str = "cat") -> Federation:
    return Federation({image_id: frozenset({category}) for image_id in image_ids}, {})


def some_boxes(seed: int, *, ties: bool = True, crowds: float = 0.1) -> tuple[list[TruthBox], list[FoundBox]]:
    """40 images that show up to 5 categories, from tiny objects to large ones, with noisy detections of them, junk, and equal scores."""
    draw = random.Random(seed)

    def a_box() -> Box:
        return draw.uniform(0, 400), draw.uniform(0, 400), draw.uniform(4, 200), draw.uniform(4, 200)

    def score() -> float:
        return draw.randint(0, 20) / 20 if ties else draw.random()

    truth, found = [], []
    for image_id in draw.sample(range(1000), 40):
        for category in draw.sample(CATEGORIES[:-1], draw.randint(0, 5)):
            boxes = [a_box() for _ in range(draw.randint(1, 4))]
            truth += [TruthBox(image_id, category, box, box[2] * box[3] * draw.uniform(0.3, 1), draw.random() < crowds) for box in boxes]
            near = [(x + draw.gauss(0, 5), y + draw.gauss(0, 5), w * draw.uniform(0.8, 1.2), h) for x, y, w, h in boxes if draw.random() < 0.8]
            found += [FoundBox(image_id, category, box, score()) for box in near]
        found += [FoundBox(image_id, draw.choice(CATEGORIES), a_box(), score()) for _ in range(draw.randint(0, 5))]
    return truth, found


def some_federation(seed: int, truth: list[TruthBox], found: list[FoundBox]) -> Federation:
    draw = random.Random(seed)
    absent, partly = {}, {}
    for image_id in {one.image_id for one in found}:
        shown = {one.category for one in truth if one.image_id == image_id}
        absent[image_id] = frozenset(category for category in CATEGORIES if category not in shown and draw.random() < 0.5)
        partly[image_id] = frozenset(category for category in CATEGORIES if draw.random() < 0.3)
    return Federation(absent, partly)


def all_known(truth: list[TruthBox], found: list[FoundBox]) -> Federation:
    """What is not labelled is verified to be absent."""
    shown = {(one.image_id, one.category) for one in truth}
    images = {one.image_id for one in found}
    return Federation({n: frozenset(category for category in CATEGORIES if (n, category) not in shown) for n in images}, {})


def as_json(truth: list[TruthBox], found: list[FoundBox]) -> tuple[dict, list]:
    """COCO's files of the same boxes, with images that have neither a label nor a detection, which thereby change nothing."""
    ids = {name: k for k, name in enumerate(CATEGORIES, start=1)}

    def annotation(one: TruthBox | FoundBox) -> dict:
        return {"image_id": one.image_id, "category_id": ids[one.category], "bbox": list(one.bbox_xywh)}

    annotations = [annotation(one) | {"id": n, "area": one.area, "iscrowd": int(one.crowd)} for n, one in enumerate(truth, start=1)]
    images = [{"id": n} for n in {one.image_id for one in [*truth, *found]} | set(range(2000, 2007))]
    categories = [{"id": k, "name": name, "frequency": "f"} for name, k in ids.items()]
    return {"images": images, "categories": categories, "annotations": annotations}, [annotation(one) | {"score": one.score} for one in found]


def as_stats(ap: AveragePrecision) -> list[float]:
    """In the order of the libraries, which say -1 where there is nothing to average."""
    return [ap.ap, ap.ap50, ap.ap75, *(ap.by_size.get(size, -100.0) for size in ("small", "medium", "large"))]


def by_hand(evaluation) -> tuple[list[float], dict[str, float]]:
    """The first six figures of a library, and AP by category."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    parts = {name: evaluation.eval["precision"][:, :, k, 0, -1] for k, name in enumerate(CATEGORIES)}
    by_category = {name: 100 * float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}
    return [100 * float(figure) for figure in evaluation.stats[:6]], by_category


@pytest.mark.parametrize("seed", range(8))
def test_coco_is_that_of_pycocotools_run_by_hand_to_the_last_digit(seed, tmp_path):
    truth, found = some_boxes(seed)
    labels, results = as_json(truth, found)
    (tmp_path / "truth.json").write_text(json.dumps(labels))
    (tmp_path / "found.json").write_text(json.dumps(results))
    coco = COCO(tmp_path / "truth.json")
    stats, by_category = by_hand(COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox"))
    ours = coco_average_precision(truth, found, CATEGORIES)
    assert as_stats(ours) == stats
    assert ours.by_category == by_category and list(ours.by_category) == list(by_category)
    assert 10 < ours.ap < ours.ap50 < 90 and len(ours.by_size) == 3 and CATEGORIES[-1] not in by_category


@pytest.mark.parametrize("seed", range(8))
def test_lvis_is_that_of_faster_coco_eval_run_by_hand_to_the_last_digit(seed):
    truth, found = some_boxes(seed, crowds=0)
    federation = some_federation(seed, truth, found)
    labels, results = as_json(truth, found)
    for image in labels["images"]:
        image["neg_category_ids"] = [k for k, name in enumerate(CATEGORIES, start=1) if name in federation.absent.get(image["id"], ())]
        image["not_exhaustive_category_ids"] = [k for k, name in enumerate(CATEGORIES, start=1) if name in federation.partly.get(image["id"], ())]
    lvis = faster_coco_eval.COCO(labels)
    evaluation = faster_coco_eval.COCOeval_faster(lvis, lvis.loadRes(results), "bbox", lvis_style=True)
    evaluation.params.maxDets = [300]
    stats, by_category = by_hand(evaluation)
    ours = lvis_average_precision(truth, found, CATEGORIES, federation)
    assert as_stats(ours) == stats and ours.by_category == by_category
    assert ours.ap > coco_average_precision(truth, found, CATEGORIES).ap


@pytest.mark.parametrize("seed", range(8))
def test_lvis_is_coco_where_everything_is_known(seed):
    truth, found = some_boxes(seed)
    lvis, coco = lvis_average_precision(truth, found, CATEGORIES, all_known(truth, found)), coco_average_precision(truth, found, CATEGORIES)
    assert as_stats(lvis) == pytest.approx(as_stats(coco), abs=1e-9)
    assert lvis.by_category == pytest.approx(coco.by_category, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99).map(random.Random))
def test_the_order_means_nothing_to_the_last_bit(seed, draw):
    truth, found = some_boxes(seed, ties=False)
    federation = some_federation(seed, truth, found)
    shuffled = draw.sample(truth, len(truth)), draw.sample(found, len(found))
    assert coco_average_precision(*shuffled, CATEGORIES) == coco_average_precision(truth, found, CATEGORIES)
    assert lvis_average_precision(*shuffled, CATEGORIES, federation) == lvis_average_precision(truth, found, CATEGORIES, federation)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99).map(random.Random))
def test_equal_scores_of_a_category_rank_by_image_id_then_as_given(seed, draw):
    truth, found = some_boxes(seed)
    federation = some_federation(seed, truth, found)
    turn = {(one.image_id, one.category): draw.random() for one in [*truth, *found]}
    shuffled = [sorted(boxes, key=lambda one: turn[one.image_id, one.category]) for boxes in (truth, found)]
    assert coco_average_precision(*shuffled, CATEGORIES) == coco_average_precision(truth, found, CATEGORIES)
    assert lvis_average_precision(*shuffled, CATEGORIES, federation) == lvis_average_precision(truth, found, CATEGORIES, federation)
    good, bad = drawn(CAT, 0.5), drawn(DOG, 0.5)
    assert coco_average_precision([label()], [good, bad], ["cat"]).ap == TOP
    assert coco_average_precision([label()], [bad, good], ["cat"]).ap == pytest.approx(50)
    assert coco_average_precision([label()], [replace(bad, image_id=2), good], ["cat"]).ap == TOP


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_only_the_ranking_of_scores_matters(seed):
    truth, found = some_boxes(seed)
    squeezed = [replace(one, score=one.score**2 / 2) for one in found]
    assert coco_average_precision(truth, squeezed, CATEGORIES) == coco_average_precision(truth, found, CATEGORIES)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_a_category_stands_alone_and_weighs_as_much_as_another(seed):
    truth, found = some_boxes(seed)
    whole = coco_average_precision(truth, found, CATEGORIES)
    assert whole.ap == pytest.approx(sum(whole.by_category.values()) / len(whole.by_category))
    for category, ap in whole.by_category.items():
        alone = coco_average_precision(truth, found, [category])
        assert alone.ap == ap and alone.by_category == {category: ap}
    assert set(coco_average_precision(truth, found, CATEGORIES[:3]).by_category) <= set(CATEGORIES[:3])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_what_is_labelled_is_found_perfectly_by_the_labels(seed):
    truth, _ = some_boxes(seed, crowds=0)
    found = [FoundBox(one.image_id, one.category, one.bbox_xywh, 0.5) for one in truth]
    for ap in (coco_average_precision(truth, found, CATEGORIES), lvis_average_precision(truth, found, CATEGORIES, NOTHING_KNOWN)):
        assert (ap.ap, ap.ap50, ap.ap75) == (TOP, TOP, TOP)
        assert all(part == TOP for part in [*ap.by_size.values(), *ap.by_category.values()])


def test_a_single_object_found_scores_a_last_digit_less_than_100():
    assert 100 - 1e-12 < coco_average_precision([label()], [drawn()], ["cat"]).ap < 100


@pytest.mark.parametrize("found", [[], [drawn()]])
def test_nothing_to_find_scores_0_and_has_neither_size_nor_category(found):
    nothing = AveragePrecision(0, 0, 0, {}, {})
    assert coco_average_precision([], found, ["cat"]) == lvis_average_precision([], found, ["cat"], absent_from(1)) == nothing
    assert coco_average_precision([label(crowd=True)], found, ["cat"]) == nothing
    assert coco_average_precision([label()], found, []) == nothing


@pytest.mark.parametrize("found", [[], [drawn(DOG)], [drawn(image_id=2)], [drawn(category="dog")]])
def test_nothing_found_scores_0(found):
    missed = AveragePrecision(0, 0, 0, {"medium": 0}, {"cat": 0})
    assert coco_average_precision([label()], found, ["cat", "dog"]) == missed
    assert lvis_average_precision([label()], found, ["cat", "dog"], absent_from(2)) == missed


def test_a_duplicate_costs_where_it_ranks_before_another_object():
    truth, found = [label(), label(DOG)], [drawn(CAT, 0.9), drawn(DOG, 0.7)]
    assert coco_average_precision(truth, found, ["cat"]).ap == TOP
    assert coco_average_precision(truth, [*found, drawn(CAT, 0.6)], ["cat"]).ap == TOP
    # 51 recalls up to a half at precision 1, the other 50 at 2/3
    assert coco_average_precision(truth, [*found, drawn(CAT, 0.8)], ["cat"]).ap == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_crowd_need_not_be_found_and_boxes_in_it_are_free():
    truth = [label(), label(DOG, crowd=True)]
    parts = [drawn((50.0 + n, 60.0, 10.0, 10.0), 0.9) for n in range(5)]
    assert coco_average_precision(truth, [drawn(score=0.5)], ["cat"]).ap == TOP
    assert coco_average_precision(truth, [*parts, drawn(score=0.5)], ["cat"]).ap == TOP
    assert coco_average_precision(truth[:1], [*parts, drawn(score=0.5)], ["cat"]).ap == pytest.approx(100 / 6)


def test_the_size_of_an_object_is_its_area_as_labelled():
    wide = replace(label(), bbox_xywh=(0.0, 0.0, 200.0, 200.0), area=1000.0)
    assert coco_average_precision([wide], [drawn((0.0, 0.0, 200.0, 200.0))], ["cat"]).by_size == {"small": TOP}
    assert list(coco_average_precision([wide, replace(wide, area=9217.0)], [], ["cat"]).by_size) == ["small", "large"]


def test_coco_looks_at_100_boxes_of_a_category_in_an_image_and_lvis_at_300_of_an_image():
    junk = [drawn(DOG, 0.9) for _ in range(100)]
    assert coco_average_precision([label()], [*junk[1:], drawn(score=0.5)], ["cat"]).ap == pytest.approx(1)
    assert coco_average_precision([label()], [*junk, drawn(score=0.5)], ["cat"]).ap == 0
    assert lvis_average_precision([label()], [*(junk * 3)[1:], drawn(score=0.5)], ["cat"], NOTHING_KNOWN).ap == pytest.approx(1 / 3)
    elsewhere = [drawn(DOG, 0.9, category="dog") for _ in range(299)]
    for evaluated in (["cat"], ["cat", "dog"]):
        assert lvis_average_precision([label()], [*elsewhere, drawn(score=0.5)], evaluated, NOTHING_KNOWN).ap == TOP
        assert lvis_average_precision([label()], [*elsewhere, drawn(DOG, 0.5), drawn(score=0.4)], evaluated, NOTHING_KNOWN).ap == 0
        two = [*elsewhere, drawn(DOG, 0.5, image_id=2), drawn(score=0.4)]
        assert lvis_average_precision([label()], two, evaluated, NOTHING_KNOWN).ap == TOP


def test_lvis_drops_what_its_labels_cannot_judge():
    truth, found = [label()], [drawn(DOG, 0.9, image_id=2), drawn(score=0.5)]
    assert lvis_average_precision(truth, found, ["cat"], NOTHING_KNOWN).ap == TOP
    assert lvis_average_precision(truth, found, ["cat"], absent_from(2, category="dog")).ap == TOP
    assert lvis_average_precision(truth, found, ["cat"], absent_from(2)).ap == pytest.approx(50)
    # image 1 shows a cat, so that a second one that is none counts against
    assert lvis_average_precision(truth, [drawn(DOG, 0.9), drawn(score=0.5)], ["cat"], NOTHING_KNOWN).ap == pytest.approx(50)


def test_lvis_ignores_what_it_cannot_match_where_not_all_is_labelled():
    truth, found = [label()], [drawn(DOG, 0.9), drawn(score=0.5)]
    assert lvis_average_precision(truth, found, ["cat"], Federation({}, {1: frozenset({"cat"})})).ap == TOP
    for others in ({1: frozenset({"dog"})}, {2: frozenset({"cat"})}):
        assert lvis_average_precision(truth, found, ["cat"], Federation({}, others)).ap == pytest.approx(50)
    assert lvis_average_precision(truth, found[:1], ["cat"], Federation({}, {1: frozenset({"cat"})})).ap == 0


def test_nothing_is_printed(capsys):
    truth, found = some_boxes(0)
    coco_average_precision(truth, found, CATEGORIES)
    lvis_average_precision(truth, found, CATEGORIES, all_known(truth, found))
    assert capsys.readouterr() == ("", "")


def test_a_category_named_twice_is_refused():
    with pytest.raises(ValueError, match="name each once"):
        coco_average_precision([], [], ["cat", "dog", "cat"])
