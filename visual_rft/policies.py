"""The models of a run: the policy that is trained, the reference it is held near, and what speaks in rollouts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError  # type: ignore[import-untyped]

from visual_rft import hardware
from visual_rft.distributed import World
from visual_rft.hardware import HardwareOptions, Machine, Precision
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.models.recompute import checkpoint_activations
from visual_rft.models.sharding import Sharding, copy_whole
from visual_rft.tracking.runfolder import saved_steps


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


def load(model: ModelOptions, options: HardwareOptions, machine: Machine, world: World, *, with_reference: bool) -> Models:
    """All of them from one folder. Raises ValueError as `loading.load`, on every rank."""
    mesh = hardware.mesh(options, machine.device, world)

    def sharding(kept_in: torch.dtype, *, offload: bool) -> Sharding | None:
        return Sharding(mesh, kept_in, offload) if mesh and (mesh.size() > 1 or offload) else None

    spread = sharding(torch.float32 if options.master_weights else machine.dtype, offload=options.offload)
    policy, processor = world.each(lambda: loading.load(model, machine, spread))
    checkpoint_activations(policy, options.activation_checkpointing)
    reference = None
    if with_reference:
        frozen = sharding(machine.dtype, offload=options.offload or options.offload_reference)
        reference = world.each(lambda: loading.load(model, machine, frozen)[0].requires_grad_(False))
    models = Models(policy, reference, processor, loading.empty(model, machine) if spread else policy, model.pace)
    models.tell_speaker(trained_only=False)
    return models


@dataclass(frozen=True)
class Trained:
    """What a run has made: its model, with the newest checkpoint as path, the precision it was evaluated in, the task it was trained for, and how its
    questions were put."""

    model: ModelOptions
    precision: Precision
    task: str
    asked: Mapping[str, Any]


def of_run(folder: Path) -> Trained:
    """What the run in a folder has made so far. Raises ValueError when that is nothing, or the folder is none of a run."""
    checkpoint, file = newest_checkpoint(folder), folder / "config.yaml"
    try:
        config = OmegaConf.load(file)
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelOptions), config.model))
        assert isinstance(model, ModelOptions)
        asked = {key: config.task[key] for key in ("wording", "thinking") if key in config.task}
        return Trained(replace(model, path=str(checkpoint)), Precision(config.hardware.precision), config.task.name, asked)
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, ValueError) as error:
        raise ValueError(f"run={folder}: {file} is not the configuration of a run; give the checkpoint as model.path=… instead") from error


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint of the latest step in a run folder. Raises ValueError when there is none."""
    found = list(saved_steps(folder / "checkpoints").values())
    if not found:
        reason = "no checkpoint in it" if folder.is_dir() else "no such folder"
        raise ValueError(f"run={folder}: {reason}; name the folder of a run that has saved one, or a model folder, model.path=…")
    return found[0]
