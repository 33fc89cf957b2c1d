"""GRPO as the paper has it (Visual-RFT, arXiv 2503.01785; GRPO: DeepSeekMath, arXiv 2402.03300, algorithm 1), in the order of its method section.

One step: ask P questions, sample a group of G completions each, score them with a reward that can be checked, normalise the rewards
inside each group into advantages, and move the policy along the clipped surrogate, held near a frozen reference by β times the k3 KL.

Axes: P prompts a step, G completions a prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from visual_rft.advantages import group_advantages, shuffled_group_advantages
from visual_rft.algorithm import Advantage, AlgorithmOptions
from visual_rft.distributed import ALONE, World
from visual_rft.hardware import HardwareOptions
from visual_rft.inference import Asked, Prepared, ask, prepare, prepare_ahead, sample_groups
from visual_rft.learner import Learner, Work
from visual_rft.measurements import Stopwatch, batch_metrics, logprob_gap, mean_metrics
from visual_rft.optimizer import Optimizer
from visual_rft.policies import Models
from visual_rft.rollout.engine import Decoding, Engine
from visual_rft.seeding import Role, stream
from visual_rft.sources.stream import step_examples
from visual_rft.tasks.task import Task
from visual_rft.vocabulary import Batch, Example, Group, Reward

Judge = Callable[[Group], Future[list[Reward]]]  # sets to work on the rewards of a group


@dataclass(frozen=True)
class Step:
    """One finished step (`number` counts from 1): its metrics by name, and everything that was sampled and how it was judged.

    `skipped` says why an update left the weights alone (with several a batch, the ones before it moved them); None when none did. `fatal` is the
    line to stop the run with: as many steps in a row were skipped as are allowed.
    """

    number: int
    metrics: dict[str, float]
    groups: list[Group]
    rewards_PG: list[list[Reward]]
    totals_PG: Tensor
    advantages_PG: Tensor
    skipped: str | None
    fatal: str | None


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done, how many of them were skipped, and how many of the last in a row."""

    steps: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def after(self, *, skipped: bool) -> "Progress":
        """One step later."""
        return Progress(self.steps + 1, self.skipped + skipped, self.skipped_in_a_row + 1 if skipped else 0)


class Trainer:
    """A policy that asks, answers, is judged, and learns. `run()` yields the steps one by one."""

    engine: Engine

    def __init__(self, models: Models, task: Task, algorithm: AlgorithmOptions, hardware: HardwareOptions, world: World = ALONE) -> None:
        self.models, self.task, self.algorithm, self.hardware, self.world = models, task, algorithm, hardware, world
        self.processor, self.speaker = models.processor, models.speaker
        decay, with_masters = algorithm.weight_decay, hardware.master_weights
        optimizer = Optimizer(models.policy.model, weight_decay=decay, pace=models.pace, with_masters=with_masters)
        budget = hardware.tokens_per_micro_batch
        self.learner = Learner(models.policy, models.reference, algorithm, budget, world=world, optimizer=optimizer)
        self.progress = Progress()

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

    def run(self, examples: Sequence[Example], *, steps: int, prompts_per_step: int, learning_rate: float, seed: int) -> Iterator[Step]:
        """What is left of `steps` steps over the training examples; the learning rate falls linearly to zero. Everything follows from the seed.

        An update whose loss or gradient is not finite leaves the weights alone. After `max_bad_steps` such steps in a row the last is `fatal`.
        """

        def asked_at(step: int) -> list[Example]:
            return step_examples(examples, step=step, prompts_per_step=prompts_per_step, seed=seed)

        def mine(step: int) -> list[Example]:
            return asked_at(step)[share.start : share.stop]

        share = self.world.share(prompts_per_step)
        left, self.engine = range(self.progress.steps, steps), self.engine_for(len(share))
        ahead = prepare_ahead(self.processor, mine, left, self.hardware.workers)
        for step in left:
            watch = Stopwatch()
            with self.judging(progress=step / steps) as judge:
                with watch.stage("prepare"):
                    prepared = next(ahead)
                with watch.stage("encode"):
                    asked, features = self.look(prepared)
                with watch.stage("rollout"):
                    groups, pending = self.sample(mine(step), share, asked, features, judge, seed=(seed, step))
                with watch.stage("reference"):
                    rounds = self.learner.pack(groups, asked, features)
                with watch.stage("reward"):
                    judged = [rewards.result() for rewards in pending]
            groups, rewards_PG = self.of_all(groups, judged, asked_at(step))
            totals_PG = torch.tensor([[self.task.total(r) for r in rewards] for rewards in rewards_PG], dtype=torch.float64)
            advantages_PG = self.advantages(totals_PG, seed=(seed, step))
            with watch.stage("update"):
                work = Work(asked, features, rounds, advantages_PG[share.start : share.stop])
                updates = self.learner.updates(work, learning_rate * (1 - step / steps))
                self.models.tell_speaker()
            fault = updates[-1].fault()
            self.progress = self.progress.after(skipped=fault is not None)
            metrics = mean_metrics([update.metrics for update in updates]) | {"policy/skipped_steps": self.progress.skipped}
            metrics |= batch_metrics(groups, rewards_PG, totals_PG) | watch.metrics(groups)
            fatal = self._too_many(fault) if self.progress.skipped_in_a_row == self.algorithm.max_bad_steps else None
            yield Step(step + 1, metrics, groups, rewards_PG, totals_PG, advantages_PG, fault, fatal)
            if fatal:
                return

    def _too_many(self, fault: str | None) -> str:
        bad, step = self.algorithm.max_bad_steps, self.progress.steps
        remedy = "ask for a smaller model.learning_rate or a greater algorithm.kl.coefficient"
        return f"algorithm.max_bad_steps={bad}: as many steps in a row were skipped, up to step {step}: {fault}; {remedy}"

    def engine_for(self, prompts: int) -> Engine:
        """What decodes the groups of so many prompts, all together where there is room."""
        a, group = self.algorithm, self.algorithm.group_size
        decoding = Decoding(a.max_completion_tokens, self.processor.end_id, a.temperature, a.top_p)
        rows, fixed = min(self.hardware.decoded_together, prompts * group), self.speaker.device.type == "cuda"
        return Engine(self.speaker, decoding, group=group, rows=rows, fixed=fixed)

    @torch.no_grad()
    def look(self, prepared: Prepared) -> tuple[Asked, Sequence[Tensor]]:
        """The prompts, and the features of each image: one encode for everything that needs no gradient of the tower."""
        asked = ask(self.speaker, prepared)
        return asked, self.speaker.encode(asked.pixels) if asked.prompts else ()

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
