"""What several test files share: an untrained miniature, which costs nothing to make, and examples that differ in every way."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing downloads at test time

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from visual_rft.images import StoredImage
from visual_rft.miniature import build
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.tasks.detection import questions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Style
from visual_rft.vocabulary import DetectionTruth, Example

# Fewer random inputs than Hypothesis tries by itself: `pytest --hypothesis-profile=default` tries those.
settings.register_profile("quick", max_examples=40)
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # entries set their own; small matrices gain nothing from more


@pytest.fixture(scope="session")
def untrained() -> tuple[Policy, Processor]:
    """The miniature before its school. Images may keep any size from 16×16 to 96×96, so that prompts differ in length."""
    policy, processor = build(seed=0)
    processor.images.size = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    return policy.eval(), processor


@pytest.fixture(scope="session")
def ragged() -> list[Example]:
    """Five questions of different lengths about images of different sizes."""
    sizes = [(64, 64), (96, 48), (32, 32), (48, 80), (64, 32)]
    words = ["cat", "traffic light", "dog", "very small and rather old fire hydrant", "bus"]
    rng = np.random.default_rng(0)
    return [
        Example(
            id=str(i),
            images=(StoredImage.of(i, Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))),),
            subject=word,
            question=f"Find every {word}.",
            truth=DetectionTruth(((100.0, 100.0, 600.0, 700.0),)),
        )
        for i, ((width, height), word) in enumerate(zip(sizes, words, strict=True))
    ]


@pytest.fixture(scope="session")
def digit_questions() -> list[Example]:
    return questions(scenes(Split.TEST, 8, seed=0), CATEGORIES, Present.ground_truth, Style())
