"""Examples in, completions out: what the training rollouts and every evaluation have in common.

Axes: P examples, G completions an example, I images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from visual_rft.models.policy import Policy
from visual_rft.models.processor import Pixels, Processor
from visual_rft.rollout.engine import Decoding, Engine, Finish, Request, Sampled
from visual_rft.seeding import Role
from visual_rft.vocabulary import Completion, Example, Prompt

_ENCODED_TOGETHER = 16  # images of an evaluation at most that go through the tower in one pass


@dataclass(frozen=True)
class Prepared:
    """Questions and images as tensors: tokens_S of each question, the rows of its images, and the pixels of each image once."""

    tokens: tuple[torch.Tensor, ...]
    images: tuple[tuple[int, ...], ...]
    pixels: Pixels


@dataclass(frozen=True)
class Asked:
    """Prompts as a policy reads them, and the pixels that they point into."""

    prompts: tuple[Prompt, ...]
    pixels: Pixels


def prepare(processor: Processor, examples: Sequence[Example]) -> Prepared:
    """The examples' questions and images; an image shown by several is opened and processed once."""
    if not examples:
        return Prepared((), (), Pixels(torch.empty(0, 0), torch.empty(0, 3, dtype=torch.int64)))
    shown = {image.id: image for e in examples for image in e.images}
    row_of = {image: row for row, image in enumerate(shown)}
    pixels = processor.pixels([image.open() for image in shown.values()])
    images = tuple(tuple(row_of[image.id] for image in e.images) for e in examples)
    tokens = tuple(processor.prompt(e.question, pixels.grid_I3[list(rows)]) for e, rows in zip(examples, images, strict=True))
    return Prepared(tokens, images, pixels)


def prepare_ahead(processor: Processor, batch_of: Callable[[int], Sequence[Example]], steps: range, workers: int) -> Iterator[Prepared]:
    """Each step's examples, prepared in order, in worker processes ahead of time where there are any. Nothing depends on how many there are."""
    loader = DataLoader(
        _Steps(processor, batch_of, steps),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=1 if workers else None,  # a step's pixels can be hundreds of megabytes of shared memory
        multiprocessing_context="fork" if workers else None,  # nothing of a step can or need be pickled
        generator=torch.Generator().manual_seed(steps.start),  # torch's own chance is left alone
    )
    for prepared in loader:
        if isinstance(prepared, ValueError):
            raise prepared
        yield prepared


class _Steps(Dataset[Prepared | ValueError]):
    def __init__(self, processor: Processor, batch_of: Callable[[int], Sequence[Example]], steps: range) -> None:
        self.processor, self.batch_of, self.steps = processor, batch_of, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Prepared | ValueError:
        try:
            return prepare(self.processor, self.batch_of(self.steps[index]))
        except ValueError as error:  # handed over as it is: a loader wraps what its workers raise into a traceback
            return error


def ask(policy: Policy, prepared: Prepared) -> Asked:
    """The same, with the positions that the policy gives to text and images."""
    grid_I3 = prepared.pixels.grid_I3
    prompts = (policy.prompt(tokens, images, grid_I3) for tokens, images in zip(prepared.tokens, prepared.images, strict=True))
    return Asked(tuple(prompts), prepared.pixels)


def sample_groups(
    engine: Engine, processor: Processor, asked: Asked, features: Sequence[torch.Tensor], numbers: Sequence[int], seed: Sequence[int]
) -> Iterator[tuple[int, tuple[Completion, ...]]]:
    """A group of completions of each prompt, with the prompt's index, in the order in which they are done.

    Completion (p, g) has a random stream of its own, seeded by its role and (*seed, p, g), where p is the number that its prompt has in the step,
    on whatever rank.
    """
    requests = (
        Request(prompt, [features[image] for image in prompt.images], [[Role.COMPLETION, *seed, p, g] for g in range(engine.group)])
        for p, prompt in zip(numbers, asked.prompts, strict=True)
    )
    for index, sampled in engine.run(requests):
        yield index, completions(processor, sampled)


def answer(
    policy: Policy, processor: Processor, examples: Sequence[Example], *, max_tokens: int, together: int, workers: int
) -> Iterator[tuple[int, Completion]]:
    """The greedy completion of each example, with the example's number, in the order in which they are done; `together` are decoded at a time."""
    decoding = Decoding(max_tokens, processor.end_id, greedy=True)
    engine = Engine(policy, decoding, group=1, rows=min(together, len(examples)), fixed=policy.device.type == "cuda")
    for p, sampled in engine.run(_requests(policy, processor, examples, workers)):
        yield p, completions(processor, sampled)[0]


@torch.no_grad()
def _requests(policy: Policy, processor: Processor, examples: Sequence[Example], workers: int) -> Iterator[Request]:
    parts = list(_by_images(examples))
    for prepared in prepare_ahead(processor, lambda i: parts[i], range(len(parts)), workers):
        asked = ask(policy, prepared)
        features = policy.encode(asked.pixels)
        for prompt in asked.prompts:
            yield Request(prompt, [features[image] for image in prompt.images])


def _by_images(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Neighbours about so many images together; what is asked of one image in a row stays together, so that it is encoded once."""
    first, shown = 0, set[int]()
    for i, example in enumerate(examples):
        more = {image.id for image in example.images}
        if shown and len(shown | more) > _ENCODED_TOGETHER:
            yield examples[first:i]
            first, shown = i, set()
        shown |= more
    if shown:
        yield examples[first:]


def completions(processor: Processor, sampled: Sampled) -> tuple[Completion, ...]:
    """What was sampled, with its text."""
    return tuple(
        Completion(tokens, logprobs, processor.decode(tokens), reason is Finish.END)
        for tokens, logprobs, reason in zip(sampled.tokens, sampled.logprobs, sampled.reasons, strict=True)
    )
