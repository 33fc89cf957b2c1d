"""The test questions of a run that is over, made again from what its folder says, so that its answers can be looked at on their images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from visual_rft import workload
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.few_shot import fingerprint
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import Task, TaskOptions
from visual_rft.vocabulary import Example


def kinds(task: TaskOptions, data: DataOptions) -> dict[str, str]:
    """The schemas that these options are of, by name: a configuration alone does not say which."""
    names = {schema: name for name, schema in workload.SCHEMAS.items()}
    return {"task": names[type(task)], "data": names[type(data)]}


def questions_of(folder: Path) -> tuple[Task, dict[str, Example]]:
    """The task of the run in `folder`, and the questions of its test by their ids. ValueError where that cannot be told, where the data are not here,
    or where they are other ones than they were."""
    try:
        config = OmegaConf.load(folder / "config.yaml")
        if not isinstance(config, DictConfig):
            raise TypeError("a list")
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        task, data = (_typed(workload.SCHEMAS[environment["kinds"][part]], config[part]) for part in ("task", "data"))
        model, asked = _typed(ModelOptions, config.model), environment["data"]["test"]
    except (OSError, YAMLError, OmegaConfBaseException, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ValueError("its folder does not say what it was asked") from error
    questions = workload.test_exam(task, data, loading.speaks(model)).questions
    if fingerprint(questions) != asked:
        raise ValueError("its test data are other ones now")
    return workload.task(task, RewardOptions()), {question.id: question for question in questions}


def _typed(schema: type, values: DictConfig | Mapping[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
