"""AdamW in float32 for weights in any precision: with bfloat16 weights, a float32 master of each is what is updated, and copied back.

Weights may be whole or spread over ranks: the gradient is clipped by the norm of all of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Optimizer:
    """Updates the trained parameters of a module in place. Gradients of several backward passes add up in float32.

    `pace` says by a parameter's name how fast it moves, as a multiple of a step's learning rate.
    """

    def __init__(self, module: nn.Module, *, weight_decay: float, pace: Callable[[str], float] = lambda _: 1.0) -> None:
        self.trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.masters = {name: p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for name, p in self.trained.items()}
        self.copied = [(parameter, self.masters[name]) for name, parameter in self.trained.items() if parameter is not self.masters[name]]
        for parameter, master in self.copied:
            parameter.register_post_accumulate_grad_hook(_moves_to(master))
        groups: dict[float, list[Tensor]] = {}
        for name, master in self.masters.items():
            groups.setdefault(pace(name), []).append(master)
        on_gpu = all(master.is_cuda for master in self.masters.values())
        paced = [{"params": masters, "pace": multiple} for multiple, masters in groups.items()]
        self.adamw = torch.optim.AdamW(paced, weight_decay=weight_decay, fused=on_gpu or None)
        self._begin()

    def _begin(self) -> None:
        """The moments, all zero, before the first step: what is saved is there from the beginning."""
        for master in self.masters.values():
            master.grad = torch.zeros_like(master)
        self._move(0.0)
        for state in self.adamw.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.adamw.zero_grad()

    def step(self, learning_rate: float, *, max_grad_norm: float) -> Tensor:
        """One update by the gradients, clipped together; none when their norm is not finite. Returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.masters.values(), max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if norm.isfinite():
            self._move(learning_rate)
            self.publish()
        return norm

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
        return {f"{kind}.{names[master]}": tensor for master, state in self.adamw.state.items() for kind, tensor in state.items()}


def _moves_to(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None

    return move
