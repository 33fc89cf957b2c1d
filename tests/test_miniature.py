"""The recipe of the embedded base model. Run: .venv/bin/python -m pytest tests/test_miniature.py"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from safetensors.torch import load_file

from visual_rft.hardware import Attention, Machine
from visual_rft.lessons import LOOK_ALIKES, Recipe, lesson, loosen
from visual_rft.miniature import NUMBERS, SPECIAL_TOKENS, build, cell_truth, main, number_rows
from visual_rft.models.loading import ModelOptions, folder, load
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.parsing import parse_classification, parse_detection, parse_grounding
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.vocabulary import ClassAnswer, ClassTruth, DetectionAnswer, DetectionTruth, GroundingAnswer, GroundingTruth, Refusal

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
SHORT = ["tower_steps=2", "steps=2", "scenes_per_step=2"]
RECIPE = Recipe(0, 1, 128, 1, 1e-3, 1, 1e-3, 0.2, 0.25, 0.25, 0.6, 0.05, 0.3)


@given(x=st.integers(0, 900), y=st.integers(0, 900), width=st.integers(20, 1000), height=st.integers(20, 1000), seed=st.integers(0, 2**32))
def test_a_loose_box_lies_5_to_30_percent_too_far_out_on_every_side(x: int, y: int, width: int, height: int, seed: int) -> None:
    right, bottom = min(x + width, 1000), min(y + height, 1000)
    w, h = right - x, bottom - y
    x1, y1, x2, y2 = loosen((x, y, right, bottom), 0.05, 0.3, default_rng(seed))
    for moved, size, room in [(x - x1, w, x), (y - y1, h, y), (x2 - right, w, 1000 - right), (y2 - bottom, h, 1000 - bottom)]:
        assert min(0.05 * size, room) - 0.5 <= moved <= min(0.3 * size, room) + 0.5


def test_lessons_are_loose_well_formed_and_sometimes_about_what_is_not_there() -> None:
    examples, answers = lesson(0, RECIPE)
    kinds = {DetectionTruth: parse_detection, ClassTruth: parse_classification, GroundingTruth: parse_grounding}
    empty, misnamed, taught = 0, set(), Counter()
    for question, text in zip(examples, answers, strict=True):
        answer = kinds[type(question.truth)](text)
        assert not isinstance(answer, Refusal)
        taught[type(answer)] += 1
        assert len(answer.boxes) == len(question.truth.boxes)
        empty += isinstance(answer, DetectionAnswer) and not answer.boxes
        if isinstance(answer, ClassAnswer) and answer != ClassAnswer(str(question.truth)):
            misnamed.add((str(question.truth), answer.name))
    assert 0 < empty < 32 and min(taught[kind] for kind in (DetectionAnswer, ClassAnswer, GroundingAnswer)) > 10
    assert misnamed and misnamed <= set(LOOK_ALIKES.items())
    assert lesson(0, RECIPE)[1] == answers
    assert {e.id for e in lesson(1, RECIPE)[0]}.isdisjoint({e.id for e in examples})


def test_a_coordinate_a_name_and_a_tag_are_one_token_each_and_texts_survive(untrained: tuple[Policy, Processor]) -> None:
    processor = untrained[1]
    pieces = [*map(str, range(NUMBERS)), *(f" {name}" for name in CATEGORIES), "<think>", "</think>", "<answer>", "</answer>"]
    assert [piece for piece in pieces if len(processor.tokenizer(piece)["input_ids"]) != 1] == []
    for text in (*lesson(0, RECIPE)[1], "any text: ünïcode, 12345 <b> \n\t"):
        assert processor.decode(processor.encode(text)) == text
    assert processor.end_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert set(SPECIAL_TOKENS) <= set(processor.tokenizer.all_special_tokens)


def test_near_numbers_begin_near() -> None:
    rows = number_rows(1001, 192)
    distances = (rows - rows[500]).norm(dim=1)
    assert distances.argsort()[:3].tolist()[0] == 500 and set(distances.argsort()[1:3].tolist()) == {499, 501}
    assert distances[505] < distances[520] < distances[600]


def test_every_digit_covers_the_cells_it_lies_in() -> None:
    for scene in scenes(Split.BASE, 20, seed=0):
        classes, boxes = cell_truth(scene)
        names = {CATEGORIES[c] for c in classes.tolist() if c < 10}
        assert names <= {a.category for a in scene.annotations}
        for cell in np.flatnonzero(classes.numpy() < 10):
            assert any(
                CATEGORIES[classes[cell]] == a.category and torch.allclose(boxes[cell][:2] * 64, torch.tensor(a.bbox_xywh[:2]))
                for a in scene.annotations
            )


def test_the_recipe_runs_repeats_itself_and_spares_what_is_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        assert main([*SHORT, f"hydra.run.dir={tmp_path / name}"]) == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert [(r["part"], r["step"]) for r in curve] == [("tower", 0), ("tower", 1), ("answers", 0), ("answers", 1)]
    load(ModelOptions("tiny", str(tmp_path / "a"), 4096, 4096, 1e-4), CPU)
    capfd.readouterr()
    assert main([*SHORT, f"hydra.run.dir={tmp_path / 'a'}"]) == 2
    assert "has something in it" in capfd.readouterr().err


def test_the_shipped_checkpoint_is_of_this_recipe() -> None:
    policy, processor = build(seed=0)
    shipped, its_processor = load(ModelOptions("tiny", "embedded:tiny", 4096, 4096, 1e-4), CPU)
    assert {n: p.shape for n, p in policy.named_parameters()} == {n: p.shape for n, p in shipped.named_parameters()}
    assert processor.tokenizer.get_vocab() == its_processor.tokenizer.get_vocab()
    assert processor.tokenizer.chat_template == its_processor.tokenizer.chat_template
    config = json.loads((folder("embedded:tiny") / "config.json").read_text())
    assert config["model_type"] == "qwen2_vl" and config["text_config"]["rope_parameters"] == policy.model.config.text_config.rope_parameters
