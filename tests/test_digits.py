"""Digit scenes, splits and the prompt stream. Run: .venv/bin/python -m pytest tests/test_digits.py"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visual_rft.frames import Box
from visual_rft.images import AnnotatedImage
from visual_rft.sources.digits import CANVAS, CATEGORIES, CLEAR, DigitOptions, Split, instructions, pool, scenes
from visual_rft.sources.stream import step_examples
from visual_rft.tasks.detection import questions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Style


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


def test_questions_ask_what_is_present_or_everything() -> None:
    images = scenes(Split.TEST, 10, seed=0)
    present = questions(images, CATEGORIES, Present.ground_truth, Style())
    everything = questions(images, CATEGORIES, Present.all, Style())
    assert all(q.truth.boxes for q in present) and len(everything) == 100
    assert [q.id for q in present] == [q.id for q in everything if q.truth.boxes]
    assert sum(len(q.truth.boxes) for q in present) == sum(len(i.annotations) for i in images)
    assert all(q.subject in q.question for q in everything)


@given(size=st.integers(1, 20), per_step=st.integers(1, 25), seed=st.integers(0, 9))
def test_the_stream_asks_every_example_once_an_epoch(size: int, per_step: int, seed: int) -> None:
    examples = EXAMPLES[:size]
    asked = [e.id for step in range(10) for e in step_examples(examples, step=step, prompts_per_step=per_step, seed=seed)]
    for first in range(0, len(asked) - size + 1, size):
        assert sorted(asked[first : first + size]) == sorted(e.id for e in examples)


def test_the_stream_changes_its_order_with_epoch_and_seed() -> None:
    orders = [[e.id for e in step_examples(EXAMPLES, step=s, prompts_per_step=20, seed=seed)] for s, seed in [(0, 0), (1, 0), (0, 1)]]
    assert len({tuple(o) for o in orders}) == 3


def test_an_instruction_means_one_digit_and_never_names_it() -> None:
    sorts = set()
    for scene in POOL:
        values = {a.bbox_xywh: CATEGORIES.index(a.category) for a in scene.annotations}
        for instruction in scene.instructions:
            sorts.add(instruction.sort)
            words, value = instruction.text.split(), values[instruction.bbox_xywh]
            if instruction.sort == "sum":
                assert CATEGORIES.index(words[4]) + CATEGORIES.index(words[6]) == value and list(values.values()).count(value) == 1
                continue
            assert not set(words) & set(CATEGORIES)
            assert ("even" in words, "odd" in words) in ((False, False), (value % 2 == 0, value % 2 == 1))
            rivals = [box for box in values if instruction.sort != "parity" or values[box] % 2 == value % 2]
            rank = {box: measure(words, box, values[box]) for box in rivals if box != instruction.bbox_xywh}
            clear = 0 if instruction.sort == "value" else CLEAR
            assert all(other - measure(words, instruction.bbox_xywh, value) > clear for other in rank.values())
    assert sorts == {"sum", "place", "parity", "value"}
    assert instructions([]) == []


def measure(words: list[str], box: Box, value: int) -> float:
    """What is least for the digit that the words mean."""
    x, y, width, height = box
    center = (x + width / 2, y + height / 2)
    ranks = {"leftmost": center[0], "rightmost": -center[0], "topmost": center[1], "lowest": -center[1], "greatest": -value, "least": value}
    (word,) = ranks.keys() & set(words)
    return ranks[word]


@pytest.mark.parametrize("digits", [(1, 1), (2, 3), (1, 3)])
def test_a_scene_holds_as_many_digits_as_asked_where_there_is_room(digits: tuple[int, int]) -> None:
    counts = [len(scene.annotations) for scene in scenes(Split.TRAIN, 60, seed=0, digits=digits)]
    assert max(counts) == digits[1] and sum(count >= digits[0] for count in counts) >= 55


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((0, 1, 1, 3), "data.train_images=0: must be at least 1"),
        ((1, 0, 1, 3), "data.test_images=0: must be at least 1"),
        ((1, 1, 3, 2), "data.fewest_digits=3, data.most_digits=2: must rise, from 1 to 3"),
        ((1, 1, 0, 4), "data.fewest_digits=0, data.most_digits=4: must rise, from 1 to 3"),
    ],
)
def test_impossible_options_are_refused_by_name(options: tuple[int, int, int, int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        DigitOptions(*options)


POOL: list[AnnotatedImage] = scenes(Split.TRAIN, 220, seed=0)
EXAMPLES = questions(POOL[:20], CATEGORIES, Present.ground_truth, Style())[:20]
