"""What a YAML of conf/task may say beside the task: the training run it is meant for. Entries that do not train take it in, too."""

from dataclasses import dataclass
from typing import Any


@dataclass
class MeantFor:
    """Every such key, unchecked. An entry declares again, with their types, those that it reads."""

    model: Any = None
    data: Any = None
    hardware: Any = None
    algorithm: Any = None
    seed: Any = 0  # conf/task refers to it
    steps: Any = None
    prompts_per_step: Any = None
