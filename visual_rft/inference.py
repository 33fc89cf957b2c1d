"""Examples in, completions out: what the training rollouts and every evaluation have in common.

Axes: P examples, G completions an example.
"""

from collections.abc import Iterator, Sequence

import torch

from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.rollout.generate import Limits, Sampled, decode_greedily, sample
from visual_rft.seeding import Role
from visual_rft.vocabulary import Completion, Example, Group, PromptInputs


def prompt_inputs(policy: Policy, processor: Processor, examples: Sequence[Example]) -> PromptInputs:
    """The examples' questions and images as the policy reads them; an image asked about several times is encoded once."""
    rows = {image_id: row for row, image_id in enumerate(dict.fromkeys(e.image_id for e in examples))}
    images = {e.image_id: e.image for e in examples}
    pixels = processor.pixels([images[image_id] for image_id in rows])
    prompts = processor.prompts([e.question for e in examples], [rows[e.image_id] for e in examples], pixels.grid_I3)
    return policy.prompt_inputs(prompts, pixels, policy.features(pixels))


@torch.no_grad()
def sample_groups(
    policy: Policy, processor: Processor, examples: Sequence[Example], *, group_size: int, limits: Limits, seed: Sequence[int]
) -> list[Group]:
    """`group_size` completions of each example; completion (p, g) has a random stream of its own, seeded by its role and (*seed, p, g)."""
    seeds_PG = [[[Role.COMPLETION, *seed, p, g] for g in range(group_size)] for p in range(len(examples))]
    sampled = sample(policy, prompt_inputs(policy, processor, examples), limits, seeds_PG)
    return [Group(example, _completions(processor, s)) for example, s in zip(examples, sampled, strict=True)]


@torch.no_grad()
def answer(policy: Policy, processor: Processor, examples: Sequence[Example], *, max_tokens: int, batch: int) -> Iterator[list[Completion]]:
    """The greedy completions of the examples, in order, `batch` at a time."""
    limits = Limits(max_tokens, processor.end_id)
    for first in range(0, len(examples), batch):
        inputs = prompt_inputs(policy, processor, examples[first : first + batch])
        yield [_completions(processor, sampled)[0] for sampled in decode_greedily(policy, inputs, limits)]


def _completions(processor: Processor, sampled: Sampled) -> tuple[Completion, ...]:
    return tuple(
        Completion(tokens, logprobs, processor.decode(tokens), finished)
        for tokens, logprobs, finished in zip(sampled.tokens, sampled.logprobs, sampled.finished, strict=True)
    )
