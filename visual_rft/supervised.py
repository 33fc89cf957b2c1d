"""Supervised tuning in GRPO's place: the same questions in the same order, and instead of sampled answers one label each, which is made likelier.

The update is GRPO's own on a group of one: packed, in micro-batches, on as many ranks. Axes: P prompts a step, with a completion each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from visual_rft.algorithm import SupervisedOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.learner import Objective
from visual_rft.loop import Loop, Step
from visual_rft.losses import supervised_loss
from visual_rft.measurements import GAP
from visual_rft.models.processor import Processor
from visual_rft.policies import Models
from visual_rft.tasks.task import Task
from visual_rft.vocabulary import Completion, Example, Group


class SupervisedStep(Step):
    """A step whose completions are labels."""

    @property
    def score(self) -> float:
        return -self.metrics["loss/nll"]


def objective(options: SupervisedOptions) -> Objective:
    """Labels made likelier, without a reference."""

    def loss(*, logprobs_BT: Tensor, mask_BT: Tensor, total: float, **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return supervised_loss(logprobs_BT=logprobs_BT, mask_BT=mask_BT, aggregation=options.aggregation, total=total)

    return Objective(loss, options.aggregation, options.max_grad_norm)


def taught(processor: Processor, text: str) -> Completion:
    """A label as a completion that was certain: its logprobs are 0."""
    tokens_T = processor.encode(text)
    return Completion(tokens_T, torch.zeros(len(tokens_T)), text, finished=True)


class Tutor(Loop):
    """A policy that asks, is told, and learns. `labels` are the completions to learn, by the id of their question."""

    method = "sft"
    remedy = "ask for a smaller model.learning_rate"

    def __init__(
        self,
        models: Models,
        task: Task,
        algorithm: SupervisedOptions,
        hardware: HardwareOptions,
        labels: Mapping[str, str],
        world: World = ALONE,
    ) -> None:
        super().__init__(models, task, objective(algorithm), algorithm, hardware, world)
        self.labels = {question: taught(models.processor, text) for question, text in labels.items()}

    def documents(self) -> dict[str, Any]:
        return {"labels": {question: label.text for question, label in self.labels.items()}}

    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[SupervisedStep]:
        for turn in self.turns(examples, steps=steps, prompts_per_step=prompts_per_step, learning_rate=learning_rate, seed=seed):
            groups = [Group(question, (self.labels[question.id],)) for question in turn.questions]
            rounds = self.learner.pack(groups[turn.share.start : turn.share.stop], turn.asked, turn.features)
            advantages_PG = torch.ones(len(groups), 1)
            moved = self.learn(turn, rounds, advantages_PG)
            # Nothing was sampled: beside labels, which are certain, what is left of the gap is how unlikely the least likely token is.
            metrics = {"loss/nll_worst_token" if name == GAP else name: value for name, value in moved.metrics.items()}
            metrics |= {"completion/length_mean": sum(len(label.tokens_T) for (label,) in (g.completions for g in groups)) / len(groups)}
            yield SupervisedStep(turn.number + 1, metrics | turn.watch.metrics(groups), groups, advantages_PG, moved.skipped, moved.fatal)
