"""Which AdamW for bfloat16 weights without float32 masters: how far each moves them from where masters would, what it holds and what it takes.

    python benchmarks/bf16_optimizer.py --json benchmarks/results        (a quarter of an hour; with torchao installed, that too)

The embedded architecture is tuned with supervision, by masters; every other optimizer is given the same gradients, in bfloat16, from the same
weights. `error` is |movement − masters' movement| / |masters' movement| over all weights, `along` the share of the masters' movement that was made
(0: it stood still). `masters, rounded` is as near as bfloat16 can come.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import _measure as measure
import optimi
import torch
from torch import Tensor

from visual_rft.miniature import answers_loss, build
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.tasks.detection import questions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Style, completion, detection_answer, thinking
from visual_rft.vocabulary import Detection, Example

RATES = (1e-6, 1e-5, 1e-4)
BETAS, EPSILON = (0.9, 0.999), 1e-8
MASTERS = "masters, rounded"


def _stochastic(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
    from torchao.optim import _AdamW  # of the extra kind: it compiles

    optimizer: torch.optim.Optimizer = _AdamW(*arguments, bf16_stochastic_round=True, **options)
    return optimizer


ADAMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    MASTERS: torch.optim.AdamW,
    "plain bfloat16": torch.optim.AdamW,
    "optimi, Kahan summation": partial(optimi.AdamW, kahan_sum=True, triton=False),
} | ({"torchao, stochastic rounding": _stochastic} if find_spec("torchao") else {})


class Side:
    """bfloat16 weights, and what moves them: themselves, or their float32 masters."""

    def __init__(self, name: str, start: Sequence[Tensor], rate: float) -> None:
        self.weights = [weight.detach().clone().requires_grad_() for weight in start]
        self.moved = [weight.detach().float().requires_grad_() for weight in self.weights] if name == MASTERS else self.weights
        self.adam = ADAMS[name](self.moved, lr=rate, betas=BETAS, eps=EPSILON, weight_decay=0.0)
        self.seconds = 0.0

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One update by these gradients; its seconds are added up."""
        started = time.process_time()
        for weight, gradient in zip(self.moved, gradients, strict=True):
            weight.grad = gradient.to(weight.dtype, copy=True)
        self.adam.step()
        with torch.no_grad():
            for weight, master in zip(self.weights, self.moved, strict=True):
                weight.copy_(master)
        self.seconds += time.process_time() - started

    def bytes_a_weight(self) -> float:
        """Of weights, gradients, masters and the optimizer's tensors."""
        state = [value for values in self.adam.state.values() for value in values.values() if isinstance(value, Tensor)]
        held = {id(tensor): tensor.nbytes for tensor in [*self.weights, *self.moved, *(w.grad for w in self.moved if w.grad is not None), *state]}
        return sum(held.values()) / sum(weight.numel() for weight in self.weights)


def _answer(example: Example) -> str:
    boxes = sorted(example.truth.boxes)  # type: ignore[union-attr]
    return completion(thinking(example.subject, boxes), detection_answer([Detection(box, 0.75) for box in boxes]))


def replay(rate: float, updates: int) -> dict[str, dict[str, float]]:
    """Every optimizer on the gradients that masters met on their way."""
    policy, processor = build(seed=0)
    examples = questions(scenes(Split.TRAIN, 64, seed=0), CATEGORIES, Present.ground_truth, Style())
    trained = list(policy.to(torch.bfloat16).parameters())
    start = [weight.detach().clone() for weight in trained]
    torch.manual_seed(0)
    sides = {name: Side(name, start, rate) for name in ADAMS}
    for update in range(updates):
        asked = [examples[(4 * update + i) % len(examples)] for i in range(4)]
        policy.zero_grad()
        answers_loss(policy, processor, asked, [_answer(example) for example in asked]).backward()
        for side in sides.values():
            side.step([weight.grad for weight in trained if weight.grad is not None])
        with torch.no_grad():
            for weight, leader in zip(trained, sides[MASTERS].weights, strict=True):
                weight.copy_(leader)
    truth, costs = _movement(sides[MASTERS].moved, start), sides[MASTERS].seconds
    return {
        name: _compare(_movement(side.weights, start), truth) | {"bytes": side.bytes_a_weight(), "time": side.seconds / costs}
        for name, side in sides.items()
    }


def _movement(weights: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    return torch.cat([(weight.detach().double() - first.double()).flatten() for weight, first in zip(weights, start, strict=True)])


def _compare(moved: Tensor, truth: Tensor) -> dict[str, float]:
    return {"error": ((moved - truth).norm() / truth.norm()).item(), "along": (moved @ truth / (truth @ truth)).item()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The comparison at every rate, printed and written."""
    options = measure.parser(__doc__)
    options.add_argument("--updates", type=int, default=200)
    asked = options.parse_args(arguments)
    measure.pin()
    found = {f"{rate:g}": replay(rate, asked.updates) for rate in RATES}
    print("| | " + " | ".join(f"error, along at {rate}" for rate in found) + " | bytes a weight | time of masters' |")
    print("|---" * (len(found) + 3) + "|")
    for name in ADAMS:
        cells = [f"{at[name]['error']:.3f}, {at[name]['along']:.3f}" for at in found.values()]
        last = list(found.values())[-1][name]
        print(f"| {name} | " + " | ".join(cells) + f" | {last['bytes']:.1f} | {last['time']:.2f} |")
    result = {"updates": asked.updates, "rates": found, "machine": measure.machine()}
    if asked.json:
        file = measure.target(asked.json, "bf16_optimizer")
        file.with_name(file.name.replace("random-6m", "tiny")).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
