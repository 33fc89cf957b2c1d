"""Supervised tuning on the same prompts, images and packed forward as GRPO: the embedded base model's school, and the baseline of every study.

Axes: P prompts (one completion each), T completion tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from visual_rft.inference import ask, prepare
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.vocabulary import Example


def supervised_loss(policy: Policy, processor: Processor, examples: Sequence[Example], completions: Sequence[str]) -> Tensor:
    """Mean negative logprob of the completions' tokens, end token included; completion i answers example i."""
    asked = ask(policy, prepare(processor, examples))
    scores = policy(asked.prompts, policy.encode(asked.pixels), [[processor.encode(text)] for text in completions], 1.0)
    return -torch.where(scores.mask_BT, scores.logprobs_BT, 0.0).sum() / scores.mask_BT.sum()
