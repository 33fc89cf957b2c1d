"""Which AdamW for bfloat16 weights without float32 masters: how far each library's moves them from where masters would, and what it holds and costs.

    python benchmarks/bf16_optimizer.py --json benchmarks/results        (needs: pip install torch-optimi torchao)

The embedded tiny model is tuned with supervision, by masters; every other optimizer is given the same gradients, in bfloat16, from the same weights.
`error` is |movement − masters' movement| / |masters' movement| over all weights, `along` the share of the masters' movement that was made
(0: stood still; 1: on average all of it). Each stands beside masters of its own second beta; `masters rounded` is as near as bfloat16 can come.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import _measure as measure
import optimi
import torch
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from visual_rft.miniature import build
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.sources.digits import CATEGORIES, Split, scenes
from visual_rft.supervised import supervised_loss
from visual_rft.tasks.detection import Present, questions
from visual_rft.tasks.wording import completion, detection_answer, thinking
from visual_rft.vocabulary import Detection, Example

RATES = (1e-6, 1e-5, 1e-4)
SECOND_BETAS = (0.999, 0.99)
EPSILON = 1e-8
RANKS, PATIENCE = 2, 300

Adam = Callable[..., torch.optim.Optimizer]


class Side:
    """bfloat16 weights and an optimizer of them."""

    def __init__(self, weights: Sequence[Tensor], adam: Adam, second_beta: float = SECOND_BETAS[0], decay: float = 0.0) -> None:
        self.weights = [weight.detach().clone().requires_grad_() for weight in weights]
        self.moved = self._moved()
        self.adam = adam(self.moved, lr=1.0, betas=(0.9, second_beta), eps=EPSILON, weight_decay=decay)

    def _moved(self) -> list[Tensor]:
        return self.weights

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        for parameter, gradient in zip(self.moved, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype, copy=True)
        _set_rate(self.adam, rate)
        self.adam.step()

    def bytes_a_parameter(self) -> float:
        """Of weights, gradients and the optimizer's tensors, after a step."""
        grads = [parameter.grad for parameter in self.moved if parameter.grad is not None]
        state = [value for values in self.adam.state.values() for value in values.values() if isinstance(value, Tensor)]
        held = {id(tensor): tensor.nbytes for tensor in chain(self.weights, self.moved, grads, state)}
        return sum(held.values()) / sum(weight.numel() for weight in self.weights)


class Masters(Side):
    """The float32 weights are what moves; the bfloat16 ones are their copies."""

    def _moved(self) -> list[Tensor]:
        return [weight.detach().float().requires_grad_() for weight in self.weights]

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        super().step(gradients, rate)
        with torch.no_grad():
            for weight, master in zip(self.weights, self.moved, strict=True):
                weight.copy_(master)


def _stochastic(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
    from torchao.optim import _AdamW  # it says so on import: slowly, and on stderr

    return _AdamW(*arguments, bf16_stochastic_round=True, **options)


ADAMS: dict[str, Adam] = {
    "plain bfloat16": torch.optim.AdamW,
    "optimi, Kahan sum": partial(optimi.AdamW, kahan_sum=True, triton=False),
    "torchao, stochastic rounding": _stochastic,
}


def _set_rate(adam: torch.optim.Optimizer, rate: float) -> None:
    for group in adam.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def problem() -> tuple[Policy, Processor, list[Example]]:
    """The embedded architecture with bfloat16 weights, and questions with boxes to answer."""
    policy, processor = build(seed=0)
    return policy.to(torch.bfloat16), processor, questions(scenes(Split.TRAIN, 64, seed=0), CATEGORIES, Present.ground_truth)


def _answer(example: Example) -> str:
    boxes = sorted(example.truth.boxes)  # type: ignore[union-attr]
    return completion(thinking(example.subject, boxes), detection_answer([Detection(box, 0.75) for box in boxes]))


def replay(rate: float, updates: int) -> dict[str, dict[str, float]]:
    """Every optimizer on the gradients that masters met on their way."""
    policy, processor, examples = problem()
    trained = list(policy.parameters())
    start = [weight.detach().clone() for weight in trained]
    masters = {beta: Masters(start, torch.optim.AdamW, beta) for beta in SECOND_BETAS}
    torch.manual_seed(0)
    sides = {(name, beta): Side(start, adam, beta) for name, adam in ADAMS.items() for beta in SECOND_BETAS}
    for update in range(updates):
        asked = [examples[(4 * update + i) % len(examples)] for i in range(4)]
        policy.zero_grad()
        supervised_loss(policy, processor, asked, [_answer(example) for example in asked]).backward()
        gradients = [weight.grad for weight in trained if weight.grad is not None]
        for side in (*masters.values(), *sides.values()):
            side.step(gradients, rate)
        with torch.no_grad():
            for weight, leader in zip(trained, masters[SECOND_BETAS[0]].weights, strict=True):
                weight.copy_(leader)
    found = {}
    for beta, side in masters.items():
        truth = _movement(side.moved, start)
        found[f"masters rounded, β₂ {beta}"] = _compare(_movement(side.weights, start), truth)
        found |= {f"{name}, β₂ {beta}": _compare(_movement(sides[name, beta].weights, start), truth) for name in ADAMS}
        kahan = sides["optimi, Kahan sum", beta]
        carried = [weight.detach().float() + kahan.adam.state[weight]["kahan_comp"].float() for weight in kahan.weights]
        found[f"optimi, with its compensation, β₂ {beta}"] = _compare(_movement(carried, start), truth)
    return found


def _movement(weights: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    return torch.cat([(weight.detach().double() - first.double()).flatten() for weight, first in zip(weights, start, strict=True)])


def _compare(moved: Tensor, truth: Tensor) -> dict[str, float]:
    return {"error": ((moved - truth).norm() / truth.norm()).item(), "along": (moved @ truth / (truth @ truth)).item()}


def _some(seed: int, shapes: Sequence[torch.Size]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).bfloat16() * 0.05 for shape in shapes]


def nature(name: str, shapes: Sequence[torch.Size]) -> dict[str, Any]:
    """What must be known to use it: bytes, random numbers, shards, compiler, and whether its state comes back from a checkpoint bit for bit."""

    def run(seed: int) -> Side:
        torch.manual_seed(seed)
        side = Side(_some(0, shapes), ADAMS[name])
        for step in range(3):
            side.step(_some(step + 1, shapes), 1e-3)
        return side

    def same(one: Side, other: Side) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))

    side, before = run(0), torch.get_rng_state()
    held = side.bytes_a_parameter()
    side.step(_some(4, shapes), 1e-3)
    return {
        "bytes a parameter": round(held, 2),
        "same seed, same weights": same(run(0), run(0)),
        "other seed, same weights": same(run(0), run(1)),
        "consumes the global generator": not torch.equal(before, torch.get_rng_state()),
        "goes on from its state": goes_on(name, shapes),
        "share of weight decay": share_of_decay(name, shapes),
        "sharded as whole": sharded_as_whole(name),
        "runs without a C++ compiler": runs_without_compiler(name),
    }


def share_of_decay(name: str, shapes: Sequence[torch.Size]) -> float:
    """How much of a weight decay of 2 % in 200 updates is made, where nothing else moves."""
    start, still = _some(0, shapes), [torch.zeros(shape) for shape in shapes]
    side = Side(start, ADAMS[name], decay=0.1)
    for _ in range(200):
        side.step(still, 1e-3)
    wanted = [weight.double() * (1 - 1e-4) ** 200 for weight in start]
    return _compare(_movement(side.weights, start), _movement(wanted, start))["along"]


def goes_on(name: str, shapes: Sequence[torch.Size]) -> bool:
    """Whether a step after state_dict and load_state_dict is the step that would have been, the generator put back, too."""
    torch.manual_seed(0)
    first = Side(_some(0, shapes), ADAMS[name])
    first.step(_some(1, shapes), 1e-3)
    second = Side(first.weights, ADAMS[name])
    second.adam.load_state_dict(deepcopy(first.adam.state_dict()))  # what is loaded is not copied
    random = torch.get_rng_state()
    first.step(_some(2, shapes), 1e-3)
    torch.set_rng_state(random)
    second.step(_some(2, shapes), 1e-3)
    return all(torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))


class Uneven(nn.Module):
    """Weights that ranks share equally, unequally, and not at all: one has nothing of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(_some(0, [torch.Size(shape) for shape in ((8, 6), (3, 5), (1, 4))]))

    def forward(self) -> Tensor:
        return torch.stack([weight.float().square().sum() for weight in self.weights]).sum()


def _trained(model: nn.Module, name: str) -> list[Tensor]:
    adam = ADAMS[name](model.parameters(), lr=1.0, betas=(0.9, 0.99), eps=EPSILON, weight_decay=0.0)
    _set_rate(adam, 1e-3)
    torch.manual_seed(0)
    for _ in range(3):
        adam.zero_grad()
        model().backward()
        adam.step()
    return [weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach() for weight in model.parameters()]


def sharded_as_whole(name: str) -> bool | str:
    """Whether FSDP2's shards move as the whole does, bit for bit; or why they do not move at all."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            processes.start_processes(_rank, (folder, name), nprocs=RANKS, start_method="spawn")
        except (processes.ProcessRaisedException, processes.ProcessExitedException) as error:
            return str(error).strip().splitlines()[-1]
        return all(torch.equal(a, b) for a, b in zip(torch.load(f"{folder}/0.pt"), _trained(Uneven(), name), strict=True))


def _rank(rank: int, folder: str, name: str) -> None:
    init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    model = fully_shard(Uneven(), mesh=init_device_mesh("cpu", (RANKS,)))
    torch.save(_trained(model, name), f"{folder}/{rank}.pt")
    barrier()  # nobody leaves while another still talks to it
    destroy_process_group()


def runs_without_compiler(name: str) -> bool:
    """In a process of its own that finds none."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CXX": f"{folder}/absent", "TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        return subprocess.run([sys.executable, __file__, "--once", name], env=environment, capture_output=True, timeout=PATIENCE).returncode == 0


def figures(repeats: int, shapes: Sequence[torch.Size]) -> dict[str, dict[str, Any]]:
    """An update of the tiny model's weights by each, beside masters'."""
    gradients = _some(1, shapes)
    made: dict[str, Side] = {name: Side(_some(0, shapes), adam) for name, adam in ADAMS.items()}
    made["masters"] = Masters(_some(0, shapes), torch.optim.AdamW)
    samples = measure.by_turns({name: partial(side.step, gradients, 1e-6) for name, side in made.items()}, repeats)
    return {name: measure.Figure(samples[name], samples["masters"]).plain() for name in ADAMS}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    parser = measure.parser(__doc__, repeats=20)
    parser.add_argument("--updates", type=int, default=200, help="of every optimizer (200)")
    parser.add_argument("--once", choices=list(ADAMS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    measure.pin()
    if options.once:
        _trained(Uneven(), options.once)
        return {}
    shapes = [weight.shape for weight in problem()[0].parameters()]
    masters = Masters(_some(0, shapes), torch.optim.AdamW)
    masters.step(_some(1, shapes), 1e-3)
    extra: dict[str, Any] = {
        "updates": options.updates,
        "movement": {f"{rate:g}": replay(rate, options.updates) for rate in RATES},
        "nature": {name: nature(name, shapes) for name in ADAMS},
        "masters, bytes a parameter": round(masters.bytes_a_parameter(), 2),
    }
    file: Path | None = options.json
    if file:
        target = measure.target(file, "bf16_optimizer")
        file = target.with_name(target.name.replace("random-6m", "tiny"))
    return measure.report("bf16_optimizer", figures(options.repeats, shapes), "optimi, Kahan sum", extra, file)


if __name__ == "__main__":
    main()
    sys.exit()
