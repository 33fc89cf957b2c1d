"""Supervised tuning at the cost of a GRPO run: the same base, images, questions, evaluation and run folder.

    python benchmarks/supervised.py seed=0 hydra.run.dir=some/folder        (the overrides of visual_rft.train)

Cost is counted in forward passes of one completion: GRPO spends one on sampling, one on the reference and three on the policy's forward
and backward, supervised tuning three an example. The labels are given as answers, in the base model's own form. What only GRPO has (sampling,
advantages, rollouts, the report) is not read.
"""

import math
import sys
import time

import torch
from numpy.random import default_rng

from visual_rft import hardware
from visual_rft.config import Job, start
from visual_rft.evaluation import Evaluation, evaluate, summary_scores, table
from visual_rft.models import loading
from visual_rft.sources.stream import step_examples
from visual_rft.supervised import supervised_loss
from visual_rft.tasks.detection import render, thinking
from visual_rft.tracking.console import Console, results_table
from visual_rft.tracking.runfolder import RunFolder, environment
from visual_rft.train import TrainConfig
from visual_rft.vocabulary import Detection, Example
from visual_rft.workload import build

CONFIDENCES = (0.55, 0.65, 0.75, 0.85, 0.95)  # as the base was taught: a label says nothing of confidence


def solution(example: Example, seed: int) -> str:
    """The completion that says the truth, boxes from left to right as the base lists them."""
    rng = default_rng([seed, *example.id.encode()])
    boxes = sorted(example.truth.boxes)
    return render([Detection(box, float(rng.choice(CONFIDENCES))) for box in boxes], thinking(example.category, boxes))


def supervised_steps(config: TrainConfig) -> int:
    """Steps of `prompts_per_step` examples that cost what the GRPO run of this configuration costs."""
    passes = 1 + 3 + bool(config.algorithm.kl.coefficient)
    return math.ceil(config.steps * config.algorithm.group_size * passes / 3)


def run(job: Job[TrainConfig]) -> None:
    """One supervised run, from a checked configuration to a summary."""
    c, started = job.config, time.perf_counter()
    device = hardware.prepare(c.hardware, c.seed)
    workload, steps = build(c.task, c.rewards), supervised_steps(c)
    policy, processor = loading.load(c.model, device)
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=c.algorithm.weight_decay)
    folder = RunFolder.create(job.folder)
    folder.write_config(job.yaml)
    folder.write_environment(environment(str(device), workload.fingerprints()))

    def test() -> Evaluation:
        return evaluate(
            policy, processor, workload, max_tokens=c.algorithm.max_completion_tokens, batch=c.hardware.evaluation_batch, advance=lambda _: None
        )

    with Console(steps) as console:
        before = test()
        for step in range(steps):
            asked = step_examples(workload.train, step=step, prompts_per_step=c.prompts_per_step, seed=c.seed)
            loss = supervised_loss(policy, processor, asked, [solution(e, c.seed) for e in asked])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), c.algorithm.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = c.model.learning_rate * (1 - step / steps)
            optimizer.step()
            folder.log_metrics(step + 1, {"loss/supervised": loss.item()})
            console.step(step + 1, {})
        after = test()
    seconds = round(time.perf_counter() - started, 1)
    folder.write_summary(
        {"task": c.task.name, "model": c.model.name, **summary_scores(before, after), "steps": steps, "seed": c.seed, "seconds": seconds}
    )
    results_table(table(before, after))


if __name__ == "__main__":
    sys.exit(start(TrainConfig, "train", run))
