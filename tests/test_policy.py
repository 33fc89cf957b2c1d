"""From questions and images to our logprobs, which are the plain Hugging Face model's. Run: .venv/bin/python -m pytest tests/test_policy.py

The packed forward itself, on every family: tests/test_packed.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from visual_rft import predict
from visual_rft.inference import ask, prepare
from visual_rft.models.policy import Policy, TokenScores
from visual_rft.models.processor import IMAGE_PAD, Processor
from visual_rft.vocabulary import Example


def plain_logprobs(policy: Policy, processor: Processor, images: Sequence[Image.Image], question: str, completion: Tensor) -> Tensor:
    """logprobs_T at temperature 0.7 by a stock model's own forward: one unpadded row, every input made by the stock model itself."""
    stock = type(policy.model)._from_config(type(policy.model.config).from_dict(policy.model.config.to_dict()), attn_implementation="sdpa").eval()
    stock.load_state_dict(policy.model.state_dict())
    pixels = processor.pixels(images)
    prompt = processor.prompt(question, pixels.grid_I3)
    ids = torch.cat([prompt, completion])[None]
    types = (ids == policy.model.config.image_token_id).int()
    out = stock(input_ids=ids, pixel_values=pixels.patches_RD, image_grid_thw=pixels.grid_I3, mm_token_type_ids=types, use_cache=False)
    logits_TV = out.logits[0, len(prompt) - 1 : -1].float().index_fill(1, policy.banned, float("-inf"))
    return (logits_TV / 0.7).log_softmax(-1).gather(-1, completion[:, None])[:, 0]


def scored(
    policy: Policy, processor: Processor, examples: Sequence[Example], completions_PG: Sequence[Sequence[Tensor]], temperature: float
) -> TokenScores:
    asked = ask(policy, prepare(processor, examples))
    return policy(asked.prompts, policy.encode(asked.pixels), completions_PG, temperature)


def allowed(policy: Policy) -> Tensor:
    kept_V = torch.ones(policy.model.config.get_text_config().vocab_size, dtype=torch.bool).index_fill(0, policy.banned, False)
    return torch.nonzero(kept_V)[:, 0]


@pytest.fixture(scope="module")
def completions_PG(untrained: tuple[Policy, Processor]) -> list[list[Tensor]]:
    generator, ids = torch.Generator().manual_seed(0), allowed(untrained[0])
    lengths_PG = [[1, 7], [12], [3, 5, 4], [9], [2]]
    return [[ids[torch.randint(len(ids), (length,), generator=generator)] for length in lengths] for lengths in lengths_PG]


@torch.no_grad()
def test_logprobs_are_the_plain_forwards(untrained: tuple[Policy, Processor], ragged: list[Example], completions_PG: list[list[Tensor]]) -> None:
    policy, processor = untrained
    scores = scored(policy, processor, ragged, completions_PG, 0.7)
    rows = [(example, completion) for example, completions in zip(ragged, completions_PG, strict=True) for completion in completions]
    for row, (example, completion) in enumerate(rows):
        expected = plain_logprobs(policy, processor, [example.image], example.question, completion)
        torch.testing.assert_close(scores.logprobs_BT[row][scores.mask_BT[row]], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_prompt_may_show_several_images_of_different_sizes(
    untrained: tuple[Policy, Processor], ragged: list[Example], completions_PG: list[list[Tensor]]
) -> None:
    policy, processor = untrained
    pixels = processor.pixels([example.image for example in ragged])
    features, completion = policy.encode(pixels), completions_PG[1][0]
    for images in [(0, 1), (3, 1, 2), (4, 4), (2, 0, 1, 4, 3)]:
        tokens = processor.prompt("Which differ?", pixels.grid_I3[list(images)])
        scores = policy([policy.prompt(tokens, images, pixels.grid_I3)], features, [[completion]], 0.7)
        expected = plain_logprobs(policy, processor, [ragged[image].image for image in images], "Which differ?", completion)
        torch.testing.assert_close(scores.logprobs_BT[0], expected, atol=1e-5, rtol=0)


def test_a_placeholder_stands_for_each_cell_of_the_images_in_their_order(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    grid_I3 = processor.pixels([example.image for example in ragged]).grid_I3
    tokens = processor.prompt("Which differ?", grid_I3[[3, 1, 2]])
    _, runs = torch.unique_consecutive(tokens == policy.model.config.image_token_id, return_counts=True)
    assert runs[1::2].tolist() == [int(grid_I3[image].prod()) // 4 for image in (3, 1, 2)]
    text = processor.tokenizer.decode(tokens)
    assert text.endswith("<|vision_end|>Which differ?<|im_end|>\n<|im_start|>assistant\n") and text.count("<|vision_start|>") == 3
    assert policy.prompt(tokens, (3, 1, 2), grid_I3).images == (3, 1, 2)


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_question_that_holds_the_placeholder_is_refused(images: int, untrained: tuple[Policy, Processor]) -> None:
    grid_I3 = torch.tensor([[1, 4, 4]] * images, dtype=torch.int64).reshape(images, 3)
    for question in (IMAGE_PAD, f"Find every cat. {IMAGE_PAD * 3}"):
        with pytest.raises(ValueError, match=r"a question holds <\|image_pad\|>, which only an image may stand for: .*; leave it out"):
            untrained[1].prompt(question, grid_I3)


def test_an_entry_refuses_such_a_question_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("scene.png")
    assert predict.main(["image=scene.png", f"prompt='What is {IMAGE_PAD}?'"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("a question holds <|image_pad|>") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]


@torch.no_grad()
def test_images_follow_their_questions_when_examples_are_permuted(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """The peers' defect: images and grids repeated in another order than the prompts."""
    policy, processor = untrained
    answer_PG = [[processor.encode("No Objects")]] * 5
    straight = scored(policy, processor, ragged, answer_PG, 1.0).logprobs_BT
    turned = scored(policy, processor, ragged[::-1], answer_PG, 1.0).logprobs_BT
    torch.testing.assert_close(straight, turned.flip(0), atol=1e-5, rtol=0)
    assert (straight[0] - straight[1]).abs().max() > 1e-3


def test_an_image_asked_about_twice_is_processed_once(untrained: tuple[Policy, Processor], digit_questions: list[Example]) -> None:
    policy, processor = untrained
    asked = ask(policy, prepare(processor, digit_questions))
    ids = list(dict.fromkeys(question.asked_about.id for question in digit_questions))
    assert len(asked.pixels.grid_I3) == len(ids) < len(digit_questions)
    assert [prompt.images for prompt in asked.prompts] == [(ids.index(question.asked_about.id),) for question in digit_questions]
    for question, (row,) in zip(digit_questions, (prompt.images for prompt in asked.prompts), strict=True):
        alone = processor.pixels([question.image])
        shown = asked.pixels.of([row])
        assert torch.equal(shown.patches_RD, alone.patches_RD) and torch.equal(shown.grid_I3, alone.grid_I3)


@torch.no_grad()
def test_an_example_shows_its_images_in_order_whoever_else_shows_them(
    untrained: tuple[Policy, Processor], ragged: list[Example], completions_PG: list[list[Tensor]]
) -> None:
    """Rows of other people's data show several; the last is asked about, and each is processed once."""
    policy, processor = untrained
    stored = [example.asked_about for example in ragged]
    shown = [(0, 1), (1,), (2, 0, 1), (1, 0), (4, 4)]
    examples = [replace(example, images=tuple(stored[i] for i in images)) for example, images in zip(ragged, shown, strict=True)]
    assert [example.image for example in examples] == [stored[images[-1]].open() for images in shown]
    assert len(prepare(processor, examples).pixels.grid_I3) == 4
    scores = scored(policy, processor, examples, completions_PG, 0.7)
    rows = iter(zip(scores.logprobs_BT, scores.mask_BT, strict=True))
    for example, images, completions in zip(ragged, shown, completions_PG, strict=True):
        for completion in completions:
            logprobs_T, mask_T = next(rows)
            expected_T = plain_logprobs(policy, processor, [stored[i].open() for i in images], example.question, completion)
            torch.testing.assert_close(logprobs_T[mask_T], expected_T, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_images_encoded_together_have_the_features_that_each_has_alone(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    pixels = processor.pixels([example.image for example in ragged])
    for image, together in enumerate(policy.encode(pixels)):
        (alone,) = policy.encode(pixels.of([image]))
        assert together.shape == alone.shape == (1, int(pixels.grid_I3[image].prod()) // 4, policy.model.config.get_text_config().hidden_size)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_entropy_is_that_of_the_distribution_drawn_from(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """One group of one-token completions, every allowed token in turn: its distribution is seen whole."""
    policy, processor = untrained
    ids = allowed(policy)
    for temperature in (0.5, 2.0):
        scores = scored(policy, processor, ragged[:1], [list(ids[:, None])], temperature)
        probabilities = scores.logprobs_BT[:, 0].double().exp()
        assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
        entropy = -(probabilities * scores.logprobs_BT[:, 0]).sum().float()
        torch.testing.assert_close(scores.entropy_BT[:, 0], entropy.expand(len(ids)), atol=1e-4, rtol=0)


def test_an_empty_completion_is_refused(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    with pytest.raises(ValueError, match="every completion holds its end token at least"):
        scored(*untrained, ragged[:1], [[torch.empty(0, dtype=torch.int64)]], 1.0)


def test_pixel_limits_set_the_grid(ragged: list[Example], untrained: tuple[Policy, Processor], tmp_path: Path) -> None:
    untrained[1].save(tmp_path, stock_class="Qwen2VLProcessor")
    cells = [Processor.load(tmp_path, min_pixels=p, max_pixels=p).pixels([ragged[0].image]).grid_I3.prod().item() for p in (32 * 32, 64 * 64)]
    assert cells == [16, 64]


def test_image_tokens_and_padding_rows_are_banned_and_the_end_is_not(untrained: tuple[Policy, Processor]) -> None:
    policy, processor = untrained
    banned, rows = set(policy.banned.tolist()), policy.model.config.get_text_config().vocab_size
    assert {policy.model.config.image_token_id, policy.model.config.video_token_id, processor.tokenizer.pad_token_id} <= banned
    assert processor.end_id not in banned
    assert set(range(len(processor.tokenizer), rows)) <= banned, "rows of the embedding that no token has must never be drawn"
    assert banned.isdisjoint(processor.allowed_ids) and banned | set(processor.allowed_ids) == set(range(rows))


@torch.no_grad()
def test_a_banned_token_has_no_probability(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    policy, processor = untrained
    banned = [torch.tensor([token]) for token in policy.banned.tolist()]
    scores = scored(policy, processor, ragged[:1], [banned], 1.0)
    assert (scores.logprobs_BT == float("-inf")).all() and scores.entropy_BT.isfinite().all()
    assert (policy.logits(torch.randn(3, policy.model.config.get_text_config().hidden_size), 0.5)[:, policy.banned] == float("-inf")).all()
