"""GRPO as the paper has it (Visual-RFT, arXiv 2503.01785; GRPO: DeepSeekMath, arXiv 2402.03300, algorithm 1), in the order of its method section.

One step: ask P questions, sample a group of G completions each, score them with a reward that can be checked, normalise the rewards
inside each group into advantages, and move the policy along the clipped surrogate, held near a frozen reference by β times the k3 KL.

Axes: P prompts a step, G completions a prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visual_rft.advantages import group_advantages, shuffled_group_advantages
from visual_rft.algorithm import Advantage, AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, prepare, sample_groups
from visual_rft.learner import grpo
from visual_rft.loop import Loop, Step
from visual_rft.measurements import batch_metrics, logprob_gap
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Engine
from visual_rft.seeding import Role, stream
from visual_rft.tasks.task import Task
from visual_rft.tracking.pictures import Picture, group_pictures
from visual_rft.tracking.runfolder import rollout_records
from visual_rft.vocabulary import Batch, Example, Group, Reward

Judge = Callable[[Group], Future[list[Reward]]]  # sets to work on the rewards of a group


@dataclass(frozen=True)
class GrpoStep(Step):
    """A step whose completions were sampled, and how they were judged."""

    rewards_PG: list[list[Reward]]
    totals_PG: Tensor

    @property
    def score(self) -> float:
        return self.metrics["reward/mean"]

    def records(self) -> list[dict[str, Any]]:
        return rollout_records(self.number, self.groups, self.rewards_PG, self.totals_PG, self.advantages_PG)

    def pictures(self, count: int) -> list[Picture]:
        totals_PG, advantages_PG = self.totals_PG[:count].tolist(), self.advantages_PG[:count].tolist()
        return group_pictures(self.groups[:count], self.rewards_PG[:count], totals_PG, advantages_PG)


class Trainer(Loop):
    """A policy that asks, answers, is judged, and learns."""

    method = "grpo"
    remedy = "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient"
    algorithm: AlgorithmOptions
    engine: Engine

    def __init__(self, models: Models, task: Task, algorithm: AlgorithmOptions, hardware: HardwareOptions, world: World = ALONE) -> None:
        super().__init__(models, task, grpo(algorithm), algorithm, hardware, world)

    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[GrpoStep]:
        self.engine = self.engine_for(len(self.world.share(prompts_per_step)))
        for turn in self.turns(examples, steps=steps, prompts_per_step=prompts_per_step, learning_rate=learning_rate, seed=seed):
            watch, now = turn.watch, (seed, turn.number)
            with self.judging(progress=turn.number / steps) as judge:
                with watch.stage("rollout"):
                    groups, pending = self.sample(turn.mine, turn.share, turn.asked, turn.features, judge, seed=now)
                with watch.stage("reference"):
                    rounds = self.learner.pack(groups, turn.asked, turn.features)
                with watch.stage("reward"):
                    judged = [rewards.result() for rewards in pending]
            groups, rewards_PG = self.of_all(groups, judged, turn.questions)
            totals_PG = torch.tensor([[self.task.total(r) for r in rewards] for rewards in rewards_PG], dtype=torch.float64)
            advantages_PG = self.advantages(totals_PG, seed=now)
            moved = self.learn(turn, rounds, advantages_PG)
            metrics = moved.metrics | batch_metrics(groups, rewards_PG, totals_PG) | watch.metrics(groups)
            yield GrpoStep(turn.number + 1, metrics, groups, advantages_PG, moved.skipped, moved.fatal, rewards_PG, totals_PG)

    def engine_for(self, prompts: int) -> Engine:
        """What decodes the groups of so many prompts, all together where there is room."""
        a, group = self.algorithm, self.algorithm.group_size
        decoding = Decoding(a.max_completion_tokens, self.processor.end_id, a.temperature, a.top_p)
        rows, fixed = min(self.hardware.decoded_together, prompts * group), self.speaker.device.type == "cuda"
        return Engine(self.speaker, decoding, group=group, rows=rows, fixed=fixed)

    def sample(
        self, questions: Sequence[Example], numbers: range, asked: Asked, features: Sequence[Tensor], judge: Judge, seed: tuple[int, int]
    ) -> tuple[list[Group], list[Future[list[Reward]]]]:
        """A group of completions of each question, which have these numbers in the step, from the policy as it is, and their rewards, which `judge`
        is at work on."""
        groups: dict[int, Group] = {}
        pending: dict[int, Future[list[Reward]]] = {}
        for p, completions in sample_groups(self.engine, self.processor, asked, features, numbers, seed):
            groups[p] = Group(questions[p], completions)
            pending[p] = judge(groups[p])
        return [groups[p] for p in range(len(questions))], [pending[p] for p in range(len(questions))]

    @contextmanager
    def judging(self, *, progress: float) -> Iterator[Judge]:
        """A thread computes rewards beside the rollout and the reference; those it has not begun when it is left, it never does."""
        thread = ThreadPoolExecutor(max_workers=1)
        try:
            yield lambda group: thread.submit(self.rewards, group, progress=progress)
        finally:
            thread.shutdown(cancel_futures=True)

    def rewards(self, group: Group, *, progress: float) -> list[Reward]:
        """What each completion of a group earns, when this share of the training is done."""
        example = group.example
        return [
            self.task.reward(said.text, example.truth, example.contract, tokens=len(said.tokens_T), progress=progress) for said in group.completions
        ]

    def of_all(self, groups: Sequence[Group], judged: Sequence[list[Reward]], questions: Sequence[Example]) -> tuple[list[Group], list[list[Reward]]]:
        """The groups of all ranks and their rewards, in the order of the step's questions."""
        everyone = self.world.gather([(group.completions, rewards) for group, rewards in zip(groups, judged, strict=True)])
        both = [pair for pairs in everyone for pair in pairs]
        shown = [Group(question, completions) for question, (completions, _) in zip(questions, both, strict=True)]
        return shown, [rewards for _, rewards in both]

    def advantages(self, totals_PG: Tensor, seed: tuple[int, int]) -> Tensor:
        """Advantages_PG of the rewards, by the algorithm's rule."""
        if self.algorithm.advantage is Advantage.shuffled:
            return shuffled_group_advantages(totals_PG, generator=torch.Generator().manual_seed(int(stream(Role.SHUFFLE, *seed).integers(2**62))))
        return group_advantages(totals_PG)

    @torch.no_grad()
    def check_rollout(self, questions: Sequence[Example], seed: int) -> None:
        """Rollout and trainer must agree on what was sampled, or the ratio is wrong from the first step, and every reward must be able to score it:
        ValueError if they do not, or cannot."""
        asked, features = self.look(prepare(self.processor, questions))
        sampled = dict(sample_groups(self.engine_for(len(questions)), self.processor, asked, features, range(len(questions)), (seed, 0)))
        groups = tuple(Group(question, sampled[p]) for p, question in enumerate(questions))
        for group in groups:
            self.rewards(group, progress=0.0)
        scores = self.learner.scores(self.models.policy, Batch(tuple(range(len(groups))), groups, asked.prompts, None, None), features)
        gap, tolerance = logprob_gap(scores, groups).item(), self.hardware.logprob_tolerance
        if not gap <= tolerance:
            raise ValueError(
                f"hardware.logprob_tolerance={tolerance}: rollout and trainer differ by {gap:.2g} nats on the same tokens and weights, "
                "as if they were two models: look for a defect; raise it only where it is rounding, as bfloat16 does"
            )
