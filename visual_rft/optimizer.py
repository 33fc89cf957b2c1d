"""AdamW in float32 for weights in any precision: with bfloat16 weights, a float32 master of each is what is updated, and copied back.

Without masters bfloat16 weights are updated where they stand, and what their rounding drops is kept beside them (Kahan summation): 10 bytes a
weight, its gradient among them, instead of 18, and as near to the masters' way as bfloat16 can come (docs/LOG.md).

Weights may be whole or spread over ranks: the gradient is clipped by the norm of all of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Optimizer:
    """Updates the trained parameters of a module in place. Gradients of several backward passes add up in float32.

    `pace` says by a parameter's name how fast it moves, as a multiple of a step's learning rate. `masters` maps each trained parameter's name to
    what is updated: its float32 master, or itself.
    """

    def __init__(self, module: nn.Module, *, weight_decay: float, pace: Callable[[str], float] = lambda _: 1.0, with_masters: bool = True) -> None:
        self.trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        in_place = {name for name, p in self.trained.items() if p.dtype == torch.float32 or not with_masters}
        self.masters = {name: p if name in in_place else p.detach().float().requires_grad_() for name, p in self.trained.items()}
        self.copied = [(parameter, self.masters[name]) for name, parameter in self.trained.items() if parameter is not self.masters[name]]
        for parameter, master in self.copied:
            parameter.register_post_accumulate_grad_hook(_moves_to(master))
        groups: dict[float, list[Tensor]] = {}
        for name, master in self.masters.items():
            groups.setdefault(pace(name), []).append(master)
        paced = [{"params": masters, "pace": multiple} for multiple, masters in groups.items()]
        is_exact = all(master.dtype == torch.float32 for master in self.masters.values())
        self.adamw = (_in_float32 if is_exact else _compensated)(paced, weight_decay)
        self._begin()

    def _begin(self) -> None:
        """The moments, all zero, before the first step: what is saved is there from the beginning."""
        for master in self.masters.values():
            master.grad = torch.zeros_like(master)
        self._move(0.0)
        for tensor in self.state().values():
            tensor.zero_()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.adamw.zero_grad()

    def step(self, learning_rate: float, *, max_grad_norm: float) -> Tensor:
        """One update by the gradients, clipped together; none when their norm is not finite. Returns the norm before clipping."""
        norm = self._norm()
        nn.utils.clip_grads_with_norm_(self.masters.values(), max_grad_norm, norm)
        if norm.isfinite():
            self._move(learning_rate)
            self.publish()
        return norm

    def _norm(self) -> Tensor:
        """Of all gradients together: summed in float64, since a float32 sum drifts with the size of a shard. A weight that no pass used has gradient
        zero, as it has where another rank used it."""
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        norms = [torch.linalg.vector_norm(master.grad, dtype=torch.float64) for master in self.masters.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).float()

    def _move(self, learning_rate: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * group["pace"]
        self.adamw.step()

    @torch.no_grad()
    def publish(self) -> None:
        """The weights become what their masters are."""
        for parameter, master in self.copied:
            parameter.copy_(master)  # in place: a captured CUDA graph reads the weights where they stood

    def state(self) -> dict[str, Tensor]:
        """What the next steps depend on beside the masters, by name: read a saved one into these tensors, and the masters, to go on from it."""
        names = {master: name for name, master in self.masters.items()}
        of_weights = {f"{kind}.{names[master]}": tensor for master, state in self.adamw.state.items() for kind, tensor in state.items()}
        of_groups = {f"{kind}.{i}": value for i, group in enumerate(self.adamw.param_groups) for kind, value in group.items()}
        return of_weights | {name: value for name, value in of_groups.items() if isinstance(value, Tensor)}


def _in_float32(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    on_gpu = all(weight.is_cuda for group in groups for weight in group["params"])
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=on_gpu or None)


def _compensated(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    try:
        from optimi import AdamW
    except ImportError as error:
        remedy = "install the lean extra, `pip install torch-optimi`, or leave master_weights=true"
        raise ValueError(f"hardware.master_weights=false: torch-optimi is not installed; {remedy}") from error
    optimizer: torch.optim.Optimizer = AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay, kahan_sum=True, triton=False)
    return optimizer


def _moves_to(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None

    return move
