"""Digit scenes, splits and the prompt stream. Run: .venv/bin/python -m pytest tests/test_digits.py"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from visual_rft.sources.digits import CANVAS, CATEGORIES, Split, pool, scenes
from visual_rft.sources.few_shot import fingerprint, k_shot
from visual_rft.sources.stream import step_examples
from visual_rft.tasks.detection import Present, example, questions
from visual_rft.vocabulary import AnnotatedImage, Example


def test_the_pools_of_source_digits_are_disjoint() -> None:
    strokes = [{s.tobytes() for s in pool(split)[0]} for split in Split]
    assert sum(len(s) for s in strokes) == len(set().union(*strokes)) == 1797


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    whole = scenes(Split.TRAIN, 12, seed=3)
    part = scenes(Split.TRAIN, 5, seed=3, start=7)
    for a, b in zip(whole[7:], part, strict=True):
        assert (a.id, a.annotations, a.image.tobytes()) == (b.id, b.annotations, b.image.tobytes())
    others = [scenes(Split.TRAIN, 1, seed=4)[0], scenes(Split.TEST, 1, seed=3)[0], whole[1]]
    assert len({whole[0].image.tobytes(), *(o.image.tobytes() for o in others)}) == 4


def test_boxes_are_tight_inside_the_canvas_and_apart() -> None:
    for scene in scenes(Split.BASE, 60, seed=0):
        assert 1 <= len(scene.annotations) <= 3
        covered = np.zeros((CANVAS, CANVAS), dtype=int)
        for annotation in scene.annotations:
            x, y, w, h = (int(v) for v in annotation.bbox_xywh)
            assert 0 <= x < x + w <= CANVAS and 0 <= y < y + h <= CANVAS
            assert w >= 3 and h >= 9
            covered[y : y + h, x : x + w] += 1
        assert covered.max() == 1


def test_the_ink_of_a_digit_lies_in_its_box() -> None:
    """Away from all boxes a scene is a smooth background."""
    for scene in scenes(Split.TEST, 20, seed=0):
        pixels = np.asarray(scene.image, dtype=float)
        outside = np.ones((CANVAS, CANVAS), dtype=bool)
        for annotation in scene.annotations:
            x, y, w, h = (int(v) for v in annotation.bbox_xywh)
            outside[max(y - 6, 0) : y + h + 6, max(x - 6, 0) : x + w + 6] = False
        steps = np.abs(np.diff(pixels, axis=1)).max(-1)
        assert steps[outside[:, 1:] & outside[:, :-1]].max(initial=0) < 40


@given(shots=st.integers(1, 4), negatives=st.sampled_from([0.0, 0.25, 1.0]), seed=st.integers(0, 99))
def test_k_shot_takes_k_new_images_a_category_and_the_asked_share_of_negatives(shots: int, negatives: float, seed: int) -> None:
    pairs = k_shot(POOL, CATEGORIES, shots=shots, negatives=negatives, rng=default_rng(seed))
    positive = [(image, name) for image, name in pairs if name in {a.category for a in image.annotations}]
    assert [sum(name == c for _, name in positive) for c in CATEGORIES] == [shots] * 10
    assert len(pairs) - len(positive) == round(negatives * 10 * shots)
    assert len({image.id for image, _ in pairs}) == len(pairs)


def test_k_shot_is_seeded_and_fingerprinted() -> None:
    def split(seed: int) -> list[Example]:
        return [example(image, name) for image, name in k_shot(POOL, CATEGORIES, shots=2, negatives=0.1, rng=default_rng(seed))]

    assert fingerprint(split(0)) == fingerprint(split(0)) != fingerprint(split(1))
    assert fingerprint(split(0)) != fingerprint(split(0)[::-1])


def test_more_shots_than_images_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ValueError, match=r"task\.shots=50: only \d+ unused images show '\w+'; ask for at most \d+ shots"):
        k_shot(POOL, CATEGORIES, shots=50, negatives=0.0, rng=default_rng(0))


def test_questions_ask_what_is_present_or_everything() -> None:
    images = scenes(Split.TEST, 10, seed=0)
    present = questions(images, CATEGORIES, Present.ground_truth)
    everything = questions(images, CATEGORIES, Present.all)
    assert all(q.truth.boxes for q in present) and len(everything) == 100
    assert [q.id for q in present] == [q.id for q in everything if q.truth.boxes]
    assert sum(len(q.truth.boxes) for q in present) == sum(len(i.annotations) for i in images)
    assert all(q.category in q.question for q in everything)


@given(size=st.integers(1, 20), per_step=st.integers(1, 25), seed=st.integers(0, 9))
def test_the_stream_asks_every_example_once_an_epoch(size: int, per_step: int, seed: int) -> None:
    examples = EXAMPLES[:size]
    asked = [e.id for step in range(10) for e in step_examples(examples, step=step, prompts_per_step=per_step, seed=seed)]
    for first in range(0, len(asked) - size + 1, size):
        assert sorted(asked[first : first + size]) == sorted(e.id for e in examples)


def test_the_stream_changes_its_order_with_epoch_and_seed() -> None:
    orders = [[e.id for e in step_examples(EXAMPLES, step=s, prompts_per_step=20, seed=seed)] for s, seed in [(0, 0), (1, 0), (0, 1)]]
    assert len({tuple(o) for o in orders}) == 3


POOL: list[AnnotatedImage] = scenes(Split.TRAIN, 220, seed=0)
EXAMPLES = questions(POOL[:20], CATEGORIES, Present.ground_truth)[:20]
