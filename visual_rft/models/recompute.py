"""Activation checkpointing (Chen et al., arXiv 1604.06174): a layer forgets between its passes what it can compute again.

transformers does it, for language layers and vision blocks, in `policy.train()` mode alone. Nothing else depends on that mode: rollouts and
scoring, in `policy.eval()`, pay nothing.
"""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext, create_selective_checkpoint_contexts

from visual_rft.hardware import ActivationCheckpointing
from visual_rft.models.policy import Policy

# What `selective` keeps the results of, by name: an installation has the kernels it has.
_MATRIX_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
_ATTENTION = {
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "torch_attn::_varlen_attn",
    "flash_attn::_flash_attn_varlen_forward",
}


def checkpoint_activations(policy: Policy, how: ActivationCheckpointing) -> None:
    """Sets what the policy's layers keep, in `policy.train()` mode, for the backward pass; before or after its weights are sharded.

    Raises ValueError when a layer drops activations at random: it would not compute the same again, and the rollout would have another policy.
    """
    if how is ActivationCheckpointing.none:
        return
    if any(_drops(module) for module in policy.modules()):
        raise ValueError(f"hardware.activation_checkpointing={how}: the model has dropout; set attention_dropout to 0 in its config.json")
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # no random number is drawn in a layer
    if how is ActivationCheckpointing.selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _kept)
    model = policy.model
    # The first is the second's name of today.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)
    model.disable_input_require_grads()  # for the reentrant kind: with it, gradients would pass through frozen layers, too


def _kept(_context: SelectiveCheckpointContext, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    is_dear = operation.name() in _MATRIX_PRODUCTS | _ATTENTION
    return CheckpointPolicy.MUST_SAVE if is_dear else CheckpointPolicy.PREFER_RECOMPUTE


def _drops(module: nn.Module) -> bool:
    return bool(getattr(module, "attention_dropout", 0.0)) or (isinstance(module, nn.Dropout) and module.p > 0)
