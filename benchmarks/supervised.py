"""Supervised tuning at the cost of a GRPO run on a detection task: the same base, images, questions, evaluation and run folder.

    python benchmarks/supervised.py task=fsod_digits seed=0 hydra.run.dir=some/folder        (the overrides of visual_rft.train)

Cost is counted in forward passes of one completion: GRPO spends one on sampling, one on the reference and three on the policy's forward
and backward, supervised tuning three an example. The labels are given as answers, in the base model's own form. What only GRPO has (sampling,
advantages, rollouts, the report) is not read.
"""

import math
import sys
import time
from functools import partial

import torch

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.evaluation import Evaluation, evaluate, outcome
from visual_rft.inference import answer
from visual_rft.lessons import CONFIDENCES
from visual_rft.models import loading
from visual_rft.seeding import Role, stream
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.stream import step_examples
from visual_rft.supervised import supervised_loss
from visual_rft.tasks.wording import completion, detection_answer, thinking
from visual_rft.tracking.console import Console
from visual_rft.tracking.loggers import SCHEMAS
from visual_rft.tracking.runfolder import RunFolder, environment
from visual_rft.train import TrainConfig, conclude
from visual_rft.vocabulary import Detection, DetectionTruth, Example


def solution(example: Example, seed: int) -> str:
    """The completion that says the truth, boxes from left to right as the base lists them. Raises ValueError for another kind of task."""
    if not isinstance(example.truth, DetectionTruth):
        raise ValueError("task: this baseline knows what a detection model should think, and of no other task; use task=fsod_digits or ovd_digits")
    rng = stream(Role.LABEL, seed, *example.id.encode())
    boxes = sorted(example.truth.boxes)
    # As the base was taught: a label says nothing of confidence.
    detections = [Detection(box, float(rng.choice(CONFIDENCES))) for box in boxes]
    return completion(thinking(example.subject, boxes) if example.contract.thinking else None, detection_answer(detections))


def supervised_steps(config: TrainConfig) -> int:
    """Steps of `prompts_per_step` examples that cost what the GRPO run of this configuration costs."""
    passes = 1 + 3 + bool(config.algorithm.kl.coefficient)
    return math.ceil(config.steps * config.algorithm.group_size * passes / 3)


def run(job: Job[TrainConfig]) -> None:
    """One supervised run, from a checked configuration to a summary."""
    c, started = job.config, time.perf_counter()
    task, steps = workload.task(c.task, c.rewards), supervised_steps(c)
    speaks = loading.speaks(c.model)
    examples, exam = workload.train_examples(c.task, c.data, speaks), workload.test_exam(c.task, c.data, speaks)
    labels = {example.id: solution(example, c.seed) for example in examples}
    policy, processor = loading.load(c.model, hardware.prepare(c.hardware, c.seed))
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=c.algorithm.weight_decay)
    facts = environment(str(policy.device), {"train": fingerprint(examples), "test": fingerprint(exam.questions)})
    folder = RunFolder.create(job.folder, job.yaml, facts)

    with Console(steps) as console:

        def test(name: str) -> Evaluation:
            with console.stage(f"evaluate {name}", exam.asked_at_most) as advance:
                tokens, together, workers = c.algorithm.max_completion_tokens, c.hardware.decoded_together, c.hardware.workers
                ask = partial(answer, policy, processor, max_tokens=tokens, together=together, workers=workers)
                return evaluate(task, exam, ask, advance)

        before = test("before")
        for step in range(steps):
            asked = step_examples(examples, step=step, prompts_per_step=c.prompts_per_step, seed=c.seed)
            loss = supervised_loss(policy, processor, asked, [labels[e.id] for e in asked])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), c.algorithm.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = c.model.learning_rate * (1 - step / steps)
            optimizer.step()
            folder.log_metrics(step + 1, {"loss/supervised": loss.item()})
            console.step(step + 1, {})
        after = test("after")
    cost = {"steps": steps, "seed": c.seed, "seconds": round(time.perf_counter() - started, 1)}
    folder.write_summary({"task": c.task.name, "model": c.model.name} | outcome(before, after) | {"questions": len(exam.questions)} | cost)


if __name__ == "__main__":
    sys.exit(start(TrainConfig, "train", run, schemas=workload.SCHEMAS | SCHEMAS, conclude=conclude))
