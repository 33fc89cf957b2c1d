"""Our logprobs are the plain Hugging Face model's. Run: .venv/bin/python -m pytest tests/test_policy.py"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from visual_rft.inference import prompt_inputs
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.vocabulary import Example


def plain_logprobs(policy: Policy, processor: Processor, example: Example, completion: Tensor, temperature: float) -> Tensor:
    """logprobs_T by the stock model's own forward: one unpadded row, every input made by itself."""
    pixels = processor.pixels([example.image])
    prompt = processor.prompts([example.question], [0], pixels.grid_I3)[0].tokens_S
    ids = torch.cat([prompt, completion])[None]
    types = (ids == policy.model.config.image_token_id).int()
    out = policy.model(input_ids=ids, pixel_values=pixels.patches_RD, image_grid_thw=pixels.grid_I3, mm_token_type_ids=types, use_cache=False)
    logits_TV = out.logits[0, len(prompt) - 1 : -1].float().masked_fill(policy.banned_V, float("-inf"))
    return (logits_TV / temperature).log_softmax(-1).gather(-1, completion[:, None])[:, 0]


@pytest.fixture(scope="module")
def completions(untrained: tuple[Policy, Processor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    allowed = torch.nonzero(~untrained[0].banned_V)[:, 0]
    return [allowed[torch.randint(len(allowed), (length,), generator=generator)] for length in (1, 7, 12, 3, 5, 9, 2, 4)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_agree_with_the_plain_forward_on_ragged_batches(
    untrained: tuple[Policy, Processor], ragged: list[Example], completions: list[Tensor], temperature: float
) -> None:
    policy, processor = untrained
    rows = [0, 0, 1, 2, 2, 3, 4, 4]
    with torch.no_grad():
        scores = policy(prompt_inputs(policy, processor, ragged), rows, completions, temperature)
        for row, (prompt, completion) in enumerate(zip(rows, completions, strict=True)):
            expected = plain_logprobs(policy, processor, ragged[prompt], completion, temperature)
            torch.testing.assert_close(scores.logprobs_BT[row][scores.mask_BT[row]], expected, atol=1e-5, rtol=0)


def test_gradients_agree_with_the_plain_forward(untrained: tuple[Policy, Processor], ragged: list[Example], completions: list[Tensor]) -> None:
    policy, processor = untrained
    rows = [0, 0, 1, 2, 2, 3, 4, 4]
    scores = policy(prompt_inputs(policy, processor, ragged), rows, completions, 1.0)
    ours = torch.autograd.grad(scores.logprobs_BT[scores.mask_BT].sum(), list(policy.parameters()))
    plain = sum(plain_logprobs(policy, processor, ragged[p], c, 1.0).sum() for p, c in zip(rows, completions, strict=True))
    theirs = torch.autograd.grad(plain, list(policy.parameters()))  # type: ignore[arg-type]
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max() + 1e-9


def test_one_row_alone_equals_the_same_row_in_a_batch(untrained: tuple[Policy, Processor], ragged: list[Example], completions: list[Tensor]) -> None:
    policy, processor = untrained
    with torch.no_grad():
        batch = policy(prompt_inputs(policy, processor, ragged), list(range(5)), completions[:5], 1.0)
        for i in range(5):
            alone = policy(prompt_inputs(policy, processor, [ragged[i]]), [0], [completions[i]], 1.0)
            torch.testing.assert_close(alone.logprobs_BT[0], batch.logprobs_BT[i][batch.mask_BT[i]], atol=1e-5, rtol=0)


def test_images_follow_their_questions_when_rows_are_permuted(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """The peers' defect: images and grids repeated in another order than the prompts."""
    policy, processor = untrained
    answer = [processor.encode("No Objects")] * 5
    with torch.no_grad():
        straight = policy(prompt_inputs(policy, processor, ragged), list(range(5)), answer, 1.0).logprobs_BT
        turned = policy(prompt_inputs(policy, processor, ragged[::-1]), list(range(5)), answer, 1.0).logprobs_BT
    torch.testing.assert_close(straight, turned.flip(0), atol=1e-5, rtol=0)
    assert (straight[0] - straight[1]).abs().max() > 1e-3


def test_an_image_asked_twice_is_encoded_once(
    untrained: tuple[Policy, Processor], digit_questions: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, processor = untrained
    seen = []
    features = policy.features
    monkeypatch.setattr(policy, "features", lambda pixels: seen.append(len(pixels.grid_I3)) or features(pixels))
    with torch.no_grad():
        prompt_inputs(policy, processor, digit_questions)
    assert seen == [len({q.image_id for q in digit_questions})]
    assert len(digit_questions) > seen[0]


def test_entropy_is_that_of_the_distribution_drawn_from(untrained: tuple[Policy, Processor], ragged: list[Example]) -> None:
    """A one-token completion: its distribution is seen whole by asking for every allowed token in turn."""
    policy, processor = untrained
    allowed = torch.nonzero(~policy.banned_V)[:, 0]
    with torch.no_grad():
        inputs = prompt_inputs(policy, processor, ragged[:1])
        for temperature in (0.5, 2.0):
            scores = policy(inputs, [0] * len(allowed), list(allowed[:, None]), temperature)
            probabilities = scores.logprobs_BT[:, 0].exp()
            assert probabilities.sum().item() == pytest.approx(1, abs=1e-4)
            entropy = -(probabilities * scores.logprobs_BT[:, 0]).sum()
            torch.testing.assert_close(scores.entropy_BT[:, 0], entropy.expand(len(allowed)), atol=1e-3, rtol=0)


def test_pixel_limits_set_the_grid(ragged: list[Example], untrained: tuple[Policy, Processor], tmp_path: Path) -> None:
    untrained[1].save(tmp_path)
    cells = [Processor.load(tmp_path, min_pixels=p, max_pixels=p).pixels([ragged[0].image]).grid_I3.prod().item() for p in (32 * 32, 64 * 64)]
    assert cells == [16, 64]


def test_image_tokens_and_padding_rows_are_banned_and_the_end_is_not(untrained: tuple[Policy, Processor]) -> None:
    policy, processor = untrained
    assert policy.banned_V[policy.model.config.image_token_id] and policy.banned_V[processor.tokenizer.pad_token_id]
    assert not policy.banned_V[processor.end_id]
    assert policy.banned_V[len(processor.tokenizer) :].all(), "rows of the embedding that no token has must never be drawn"
