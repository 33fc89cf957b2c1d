"""What a step reports about itself: `pytest tests/test_measurements.py`."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from visual_rft.frames import CONTRACT
from visual_rft.images import StoredImage
from visual_rft.measurements import batch_metrics
from visual_rft.vocabulary import (
    ClassAnswer,
    ClassTruth,
    Completion,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    Example,
    Group,
    Reason,
    Refusal,
    Reward,
    Truth,
)

QUESTION = Example("0", (StoredImage.of(0, Image.new("RGB", (8, 8))),), "", "", DetectionTruth(()))


def test_batch_metrics_by_hand() -> None:
    def completion(length: int, finished: bool) -> Completion:
        return Completion(torch.zeros(length, dtype=torch.int64), torch.zeros(length), "", finished)

    good, bad = Reward({"iou": 1.0}, None, None), Reward({"iou": 0.0}, None, Refusal(Reason.NO_THINK))
    groups = [Group(QUESTION, (completion(3, True), completion(5, False))), Group(QUESTION, (completion(2, True), completion(2, True)))]
    metrics = batch_metrics(groups, [[good, bad], [good, good]], torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert metrics == pytest.approx(
        {
            "reward/mean": 0.75,
            "reward/std": 0.5**0.5 / 2,
            "reward/zero_std_fraction": 0.5,
            "reward/iou": 0.75,
            "refused/no_think": 0.25,
            "completion/length_mean": 3.0,
            "completion/truncated_fraction": 0.25,
            "completion/thinking_words_mean": 0.0,
            "answer/unreadable_fraction": 1.0,
        }
    )


def test_what_is_answered_is_measured_against_the_truth() -> None:
    box = Detection((0.0, 0.0, 1.0, 1.0), 0.5)

    def group(truth: Truth, *said: str, thinking: bool = True) -> Group:
        example = replace(QUESTION, truth=truth, contract=replace(CONTRACT, thinking=thinking))
        return Group(example, tuple(Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), text, True) for text in said))

    def reward(*drawn: Detection) -> Reward:
        return Reward({"iou": 0.0}, DetectionAnswer(drawn), None)

    nothing = Reward({"iou": 0.0}, None, None)  # of the paper's family, which refuses nothing
    groups = [group(DetectionTruth(()), "<think>…</think>", "<think>a 7, there</think>"), group(DetectionTruth((box.box,)), "<think>cut", "")]
    metrics = batch_metrics(groups, [[reward(), reward(box, box)], [nothing, reward(box)]], torch.zeros(2, 2))
    shown = {key: value for key, value in metrics.items() if key.startswith(("answer/", "truth/", "completion/thinking"))}
    assert shown == pytest.approx(
        {
            "completion/thinking_words_mean": 3 / 4,
            "answer/unreadable_fraction": 1 / 4,
            "answer/boxes_mean": 1.0,
            "truth/boxes_mean": 1 / 3,
            "answer/empty_fraction": 1 / 3,
            "truth/empty_fraction": 2 / 3,
        }
    )
    named = batch_metrics([group(ClassTruth("a"), "a", "b", thinking=False)], [[Reward({}, ClassAnswer("a"), None)] * 2], torch.zeros(1, 2))
    assert not {key for key in named if "boxes" in key or "empty" in key or "thinking" in key} and named["answer/unreadable_fraction"] == 0
