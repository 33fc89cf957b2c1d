"""What a run works on: a task, the examples it is trained on, the questions it is tested with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visual_rft.rewards.options import RewardOptions
from visual_rft.seeding import Role, stream
from visual_rft.sources import coco, digits
from visual_rft.sources.few_shot import absent, k_shot
from visual_rft.sources.options import DataOptions
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.task import Task, TaskOptions
from visual_rft.vocabulary import AnnotatedImage, Example

TEST_SEED = 0  # the test scenes, and what is asked of them, never change

# The schemas a YAML of conf/ may begin with: conf/task/cls_digits.yaml has `- /task/classification_schema@task` in its defaults.
SCHEMAS: dict[str, type] = {
    "task/detection": detection.DetectionOptions,
    "task/classification": classification.ClassificationOptions,
    "task/grounding": grounding.GroundingOptions,
    "data/digits": digits.DigitOptions,
    "data/coco": coco.CocoOptions,
}


def task(options: TaskOptions, rewards: RewardOptions) -> Task:
    """The task of these options. Raises ValueError on a weight for a reward part that it does not have."""
    return _KINDS[type(options)].task(options, rewards)


def train_examples(options: TaskOptions, data: DataOptions) -> list[Example]:
    """The few shots, drawn by `task.split_seed`. Raises ValueError when data are missing or there are fewer images than shots."""
    return _KINDS[type(options)].train(options, _SOURCES[type(data)].train(data, options.split_seed))


def test_questions(options: TaskOptions, data: DataOptions) -> list[Example]:
    """The questions of an evaluation, the same for every seed. Raises ValueError when data are missing."""
    return _KINDS[type(options)].test(options, _SOURCES[type(data)].test(data))


def _detection_train(options: detection.DetectionOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    rng, shown = stream(Role.SHOTS, options.split_seed), [image.shown for image in images]
    pairs = k_shot(shown, options.base, shots=options.shots, rng=rng)
    pairs += absent(shown, options.base, pairs, share=options.negatives, rng=rng)
    return [detection.example(images[i], category) for i, category in pairs]


def _detection_test(options: detection.DetectionOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    return detection.questions(images, options.categories, options.present)


def _classification_train(options: classification.ClassificationOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    shown = [image.shown for image in images]
    pairs = k_shot(shown, options.categories, shots=options.shots, rng=stream(Role.SHOTS, options.split_seed))
    return [classification.example(images[i], options.kind) for i, _ in pairs]


def _classification_test(options: classification.ClassificationOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    return [classification.example(image, options.kind) for image in images if not image.shown.isdisjoint(options.categories)]


def _grounding_train(options: grounding.GroundingOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    rng = stream(Role.SHOTS, options.split_seed)
    chosen = [grounding.choose(image, rng) for image in images]
    sorts = sorted({instruction.sort for instruction in chosen})
    pairs = k_shot([{instruction.sort} for instruction in chosen], sorts, shots=options.shots, rng=rng)
    return [grounding.example(images[i], chosen[i]) for i, _ in pairs]


def _grounding_test(_: grounding.GroundingOptions, images: Sequence[AnnotatedImage]) -> list[Example]:
    rng = stream(Role.TEST, TEST_SEED)
    return [grounding.example(image, grounding.choose(image, rng)) for image in images]


def _digits_train(data: digits.DigitOptions, seed: int) -> list[AnnotatedImage]:
    return digits.scenes(digits.Split.TRAIN, data.train_images, seed=seed, digits=(data.fewest_digits, data.most_digits))


def _digits_test(data: digits.DigitOptions) -> list[AnnotatedImage]:
    return digits.scenes(digits.Split.TEST, data.test_images, seed=TEST_SEED, digits=(data.fewest_digits, data.most_digits))


@dataclass(frozen=True)
class _Kind:
    """How the options of one kind of task become the task, its training examples and its test questions."""

    task: Callable[[Any, RewardOptions], Task]
    train: Callable[[Any, Sequence[AnnotatedImage]], list[Example]]
    test: Callable[[Any, Sequence[AnnotatedImage]], list[Example]]


@dataclass(frozen=True)
class _Source:
    """How the options of one kind of data become images: (options, seed) for training, (options) for the test."""

    train: Callable[[Any, int], list[AnnotatedImage]]
    test: Callable[[Any], list[AnnotatedImage]]


_KINDS: dict[type, _Kind] = {
    detection.DetectionOptions: _Kind(detection.task, _detection_train, _detection_test),
    classification.ClassificationOptions: _Kind(classification.task, _classification_train, _classification_test),
    grounding.GroundingOptions: _Kind(grounding.task, _grounding_train, _grounding_test),
}
_SOURCES: dict[type, _Source] = {
    digits.DigitOptions: _Source(_digits_train, _digits_test),
    coco.CocoOptions: _Source(coco.train_images, coco.test_images),
}
