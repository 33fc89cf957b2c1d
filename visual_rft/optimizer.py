"""AdamW in float32 for weights in any precision: with bfloat16 weights, a float32 master of each is what is updated, and copied back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Optimizer:
    """Updates the trained parameters of a module in place. Gradients of several backward passes add up in float32."""

    def __init__(self, module: nn.Module, *, weight_decay: float) -> None:
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for p in self.trained]
        self.copied = [(p, master) for p, master in zip(self.trained, self.masters, strict=True) if p is not master]
        for parameter, master in self.copied:
            parameter.register_post_accumulate_grad_hook(_moves_to(master))
        self.adamw = torch.optim.AdamW(self.masters, weight_decay=weight_decay, fused=self.masters[0].is_cuda or None)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.adamw.zero_grad()

    def step(self, learning_rate: float, *, max_grad_norm: float) -> Tensor:
        """One update by the gradients, clipped together; none when their norm is not finite. Returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.masters, max_grad_norm)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        if norm.isfinite():
            self.adamw.step()
            with torch.no_grad():
                for parameter, master in self.copied:
                    parameter.copy_(master)  # in place: a captured CUDA graph reads the weights where they stood
        return norm

    def state(self) -> dict[str, Any]:
        """What the next steps depend on, beside the weights."""
        return {"adamw": self.adamw.state_dict(), "masters": [master.detach() for _, master in self.copied]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state`; the module's weights must be those of that moment."""
        self.adamw.load_state_dict(state["adamw"])
        with torch.no_grad():
            for (_, master), saved in zip(self.copied, state["masters"], strict=True):
                master.copy_(saved)


def _moves_to(master: Tensor) -> Any:
    def move(parameter: Tensor) -> None:
        assert parameter.grad is not None
        master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
        parameter.grad = None

    return move
