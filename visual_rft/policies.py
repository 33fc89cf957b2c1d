"""The models of a run: the policy that is trained, the reference it is held near, and what speaks in rollouts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visual_rft.distributed import World
from visual_rft.hardware import HardwareOptions, Machine
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.models.recompute import checkpoint_activations
from visual_rft.models.sharding import Sharding, copy_whole


@dataclass(frozen=True)
class Models:
    """`speaker` has all the weights on this device, for rollouts and evaluations: the policy itself, or a copy where its weights are spread over
    ranks. `pace` says how fast the parameters of a name move, as a multiple of the learning rate."""

    policy: Policy
    reference: Policy | None
    processor: Processor
    speaker: Policy
    pace: Callable[[str], float] = lambda _: 1.0

    @classmethod
    def whole(cls, policy: Policy, reference: Policy | None, processor: Processor) -> "Models":
        """Models with all their weights on one device."""
        return cls(policy, reference, processor, policy)

    def whole_weights(self) -> dict[str, Tensor]:
        """What the speaker says it with, by name."""
        return {name: weight.detach() for name, weight in self.speaker.model.named_parameters()}

    def tell_speaker(self, *, trained_only: bool = True) -> None:
        """The speaker becomes what the policy is: weights are gathered once, not once a token."""
        if self.speaker is not self.policy:
            copy_whole(self.policy, self.speaker, trained_only=trained_only)


def load(options: ModelOptions, hardware: HardwareOptions, machine: Machine, world: World, *, with_reference: bool) -> Models:
    """All of them from one folder. Raises ValueError as `loading.load`, on every rank."""
    spread = machine.mesh is not None and (machine.mesh.size() > 1 or hardware.offload)
    kept_in = torch.float32 if hardware.master_weights else machine.dtype
    trained = Sharding(machine.mesh, kept_in, hardware.offload) if spread and machine.mesh else None
    policy, processor = world.each(lambda: loading.load(options, machine, trained))
    checkpoint_activations(policy, hardware.activation_checkpointing)
    reference = None
    if with_reference:
        offloaded = hardware.offload or hardware.offload_reference
        frozen = Sharding(machine.mesh, machine.dtype, offloaded) if machine.mesh else None
        reference = world.each(lambda: loading.load(options, machine, frozen)[0].requires_grad_(False))
    models = Models(policy, reference, processor, loading.empty(options, machine) if spread else policy, options.pace)
    models.tell_speaker(trained_only=False)
    return models
