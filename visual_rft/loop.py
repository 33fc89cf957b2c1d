"""What every training has in common: it asks step by step, moves the policy by what is learned of it, and can go on from where it was.

Axes: P prompts a step, G completions a prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from visual_rft.algorithm import UpdateOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, Prepared, ask, prepare_ahead
from visual_rft.learner import Learner, Objective, Work
from visual_rft.measurements import Stopwatch, mean_metrics
from visual_rft.optimizer import Optimizer
from visual_rft.policies import Models
from visual_rft.sources.stream import step_examples
from visual_rft.tasks.task import Task
from visual_rft.tracking.pictures import Picture
from visual_rft.vocabulary import Batch, Example, Group


@dataclass(frozen=True)
class Step(ABC):
    """One finished step (`number` counts from 1): its metrics by name, and the completions that it learned from, of all ranks.

    `skipped` says why an update left the weights alone (with several a batch, the ones before it moved them); None when none did. `fatal` is the
    line to stop the run with: as many steps in a row were skipped as are allowed.
    """

    number: int
    metrics: dict[str, float]
    groups: list[Group]
    advantages_PG: Tensor
    skipped: str | None
    fatal: str | None

    @property
    @abstractmethod
    def score(self) -> float:
        """How good the policy was, the greater the better: what `checkpoint.keep_best` goes by."""

    def records(self) -> list[dict[str, Any]]:
        """What is to be logged of each completion."""
        return []

    def pictures(self, count: int) -> list[Picture]:  # noqa: ARG002
        """The first so many groups on their images."""
        return []


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, how many of them were skipped, and how many of the last in a row."""

    steps: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def after(self, *, skipped: bool) -> "Progress":
        """One step later."""
        return Progress(self.steps + 1, self.skipped + skipped, self.skipped_in_a_row + 1 if skipped else 0)


@dataclass(frozen=True)
class Turn:
    """A step that has begun (`number` counts from 0): the questions of all ranks, and which of them are this rank's; those as prompts, with the
    features of each image; the learning rate, and the clock."""

    number: int
    questions: Sequence[Example]
    share: range
    asked: Asked
    features: Sequence[Tensor]
    learning_rate: float
    watch: Stopwatch

    @property
    def mine(self) -> Sequence[Example]:
        return self.questions[self.share.start : self.share.stop]


@dataclass(frozen=True)
class Moved:
    """What an update measured, and `skipped` and `fatal` of its step."""

    metrics: dict[str, float]
    skipped: str | None
    fatal: str | None


class Loop(ABC):
    """A policy that learns. `run()` yields the steps one by one."""

    method: ClassVar[str]
    remedy: ClassVar[str]  # against steps that are skipped
    algorithm: UpdateOptions

    def __init__(
        self, models: Models, task: Task, objective: Objective, algorithm: UpdateOptions, hardware: HardwareOptions, world: World = ALONE
    ) -> None:
        self.models, self.task, self.algorithm, self.hardware, self.world = models, task, algorithm, hardware, world
        self.processor, self.speaker = models.processor, models.speaker
        decay, with_masters = algorithm.weight_decay, hardware.master_weights
        optimizer = Optimizer(models.policy.model, weight_decay=decay, pace=models.pace, with_masters=with_masters)
        budget = hardware.tokens_per_micro_batch
        self.learner = Learner(models.policy, models.reference, objective, budget, world=world, optimizer=optimizer)
        self.progress = Progress()

    @abstractmethod
    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[Step]:
        """What is left of `steps` steps over the training examples; the learning rate falls linearly to zero. Everything follows from the seed.

        An update whose loss or gradient is not finite leaves the weights alone. After `max_bad_steps` such steps in a row the last is `fatal`.
        """

    def documents(self) -> dict[str, Any]:
        """What else the run is trained on, by name, for its folder."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """With `note`, all that a run is, by name: chance and data are functions of the seed and the step. To go on from saved ones, read them into
        these, then call `go_on`."""
        optimizer = self.learner.optimizer
        weights = dict(self.models.policy.model.named_parameters()) | optimizer.masters
        return {name: weight.detach() for name, weight in weights.items()} | {f"optimizer.{name}": t for name, t in optimizer.state().items()}

    def note(self) -> dict[str, int]:
        """How far the run is."""
        return asdict(self.progress)

    def go_on(self, note: Mapping[str, int]) -> None:
        """Goes on from where `note` and the tensors were saved."""
        self.learner.optimizer.publish()
        self.models.tell_speaker()
        self.progress = Progress(**note)

    def turns(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[Turn]:
        """What is left of the steps, each begun, up to one that is fatal."""

        def asked_at(step: int) -> list[Example]:
            return step_examples(examples, step=step, prompts_per_step=prompts_per_step, seed=seed)

        def mine(step: int) -> list[Example]:
            return asked_at(step)[share.start : share.stop]

        share, left = self.world.share(prompts_per_step), range(self.progress.steps, steps)
        ahead = prepare_ahead(self.processor, mine, left, self.hardware.workers)
        for step in left:
            watch = Stopwatch()
            with watch.stage("prepare"):
                prepared = next(ahead)
            with watch.stage("encode"):
                asked, features = self.look(prepared)
            yield Turn(step, asked_at(step), share, asked, features, learning_rate * (1 - step / steps), watch)
            if self._is_lost():
                return

    @torch.no_grad()
    def look(self, prepared: Prepared) -> tuple[Asked, Sequence[Tensor]]:
        """The prompts, and the features of each image: one encode for everything that needs no gradient of the tower."""
        asked = ask(self.speaker, prepared)
        return asked, self.speaker.encode(asked.pixels) if asked.prompts else ()

    def learn(self, turn: Turn, rounds: Sequence[Sequence[Batch]], advantages_PG: Tensor) -> Moved:
        """Moves the policy by this rank's micro-batches and the advantages of all ranks, and counts the step."""
        with turn.watch.stage("update"):
            work = Work(turn.asked, turn.features, rounds, advantages_PG[turn.share.start : turn.share.stop])
            updates = self.learner.updates(work, turn.learning_rate)
            self.models.tell_speaker()
        fault = updates[-1].fault()
        self.progress = self.progress.after(skipped=fault is not None)
        metrics = mean_metrics([update.metrics for update in updates]) | {"policy/skipped_steps": self.progress.skipped}
        return Moved(metrics, fault, self._too_many(fault) if self._is_lost() else None)

    def _is_lost(self) -> bool:
        return self.progress.skipped_in_a_row == self.algorithm.max_bad_steps

    def _too_many(self, fault: str | None) -> str:
        bad, step = self.algorithm.max_bad_steps, self.progress.steps
        return f"algorithm.max_bad_steps={bad}: as many steps in a row were skipped, up to step {step}: {fault}; {self.remedy}"
