"""What a step reports about itself, by DESIGN's names: pure functions of what was sampled, and a stopwatch.

Axes: P prompts a step, G completions a prompt, T completion tokens.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from visual_rft.advantages import zero_std_fraction
from visual_rft.models.policy import TokenScores
from visual_rft.vocabulary import DetectionAnswer, Group, Reward, thinking

GAP = "rollout/trainer_logprob_gap"


def batch_metrics(groups: Sequence[Group], rewards_PG: Sequence[Sequence[Reward]], totals_PG: Tensor) -> dict[str, float]:
    """Rewards, their parts, refusals, lengths and answers of one step. `reward/std` is the mean of the groups' standard deviations;
    `answer/unreadable_fraction` counts what the contract refuses, whatever the reward pays for it."""
    rewards = [reward for row in rewards_PG for reward in row]
    completions = [c for group in groups for c in group.completions]
    parts = {f"reward/{name}": sum(r.parts[name] for r in rewards) / len(rewards) for name in rewards[0].parts}
    refusals = Counter(r.refusal.reason.value for r in rewards if r.refusal)
    return {
        "reward/mean": totals_PG.mean().item(),
        "reward/std": totals_PG.std(dim=1).mean().item(),
        "reward/zero_std_fraction": zero_std_fraction(totals_PG),
        **parts,
        **{f"refused/{reason}": count / len(rewards) for reason, count in refusals.items()},
        "completion/length_mean": sum(len(c.tokens_T) for c in completions) / len(completions),
        "completion/truncated_fraction": sum(not c.finished for c in completions) / len(completions),
        **_thinking(groups),
        "answer/unreadable_fraction": sum(r.answer is None for r in rewards) / len(rewards),
        **_boxes(groups, rewards_PG),
    }


def _thinking(groups: Sequence[Group]) -> dict[str, float]:
    """Words of thinking, those with a letter or a digit in them, where it is asked for."""
    words = [
        sum(any(map(str.isalnum, word)) for word in thinking(c.text).split()) for g in groups if g.example.contract.thinking for c in g.completions
    ]
    return {"completion/thinking_words_mean": sum(words) / len(words)} if words else {}


def _boxes(groups: Sequence[Group], rewards_PG: Sequence[Sequence[Reward]]) -> dict[str, float]:
    """How many boxes a readable answer of detection draws, and how many are there; the share of such answers that say `No Objects`, and of those for
    which that is right. Nothing where there is no such answer."""
    pairs = [
        (len(reward.answer.boxes), len(group.example.truth.boxes))
        for group, rewards in zip(groups, rewards_PG, strict=True)
        for reward in rewards
        if isinstance(reward.answer, DetectionAnswer)
    ]
    if not pairs:
        return {}
    drawn, true = zip(*pairs, strict=True)
    return {
        "answer/boxes_mean": sum(drawn) / len(pairs),
        "truth/boxes_mean": sum(true) / len(pairs),
        "answer/empty_fraction": drawn.count(0) / len(pairs),
        "truth/empty_fraction": true.count(0) / len(pairs),
    }


def mean_metrics(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the updates of one batch; the logprob gap is the first's, taken before the policy moved away from the rollout's."""
    mean = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
    return mean | {GAP: updates[0][GAP]}


@torch.no_grad()
def logprob_gap(scores: TokenScores, groups: Sequence[Group]) -> Tensor:
    """The largest difference, in nats, between a sampled token's logprob in the rollout and in the trainer."""
    sampled_BT = pad_sequence([c.logprobs_T for group in groups for c in group.completions], batch_first=True).to(scores.logprobs_BT.device)
    return torch.where(scores.mask_BT, scores.logprobs_BT - sampled_BT, 0.0).abs().max()


class Stopwatch:
    """Wall seconds of a step's stages."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times one stage: `time/<name>`."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_initialized():  # what was launched belongs to the stage that launched it
            torch.cuda.synchronize()
        self.stages[f"time/{name}"] = time.perf_counter() - started

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Seconds by stage and in all, completions and completion tokens a second, and the peak memory of the process or its GPU in GB."""
        seconds = time.perf_counter() - self.started
        lengths = [len(c.tokens_T) for group in groups for c in group.completions]
        on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            **self.stages,
            "time/step": seconds,
            "throughput/completions_per_second": len(lengths) / seconds,
            "throughput/tokens_per_second": sum(lengths) / seconds,
            "memory/peak_gb": peak / 1e9,
        }
