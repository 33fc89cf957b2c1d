"""What a YAML of conf/task may say beside the task: the training run it is meant for. Entries that do not train take it in, too."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

# Keys of groups that some entries read in part: those that draw the few shots, and those of training.
SHOTS = ("task.shots", "task.at_most", "task.split_seed", "task.split")
TRAINING_DATA = ("task.trained", "data.train_annotations", "data.train_images", "data.train_rows", "data.train", "data.train_split")
TEST_DATA = ("data.test_annotations", "data.test_images", "data.test", "data.test_split")
# Those of a whole exam, or of drawing from data, which who asks one question has no use for.
ASKING = ("task.negatives", "task.trained", "task.present", "task.presence", "task.segmenter")
TRAINING: tuple[str, ...] = ("model.learning_rate", "model.learning_rates", "model.frozen", "hardware.tokens_per_micro_batch")
TRAINING += ("hardware.activation_checkpointing", "hardware.offload", "hardware.offload_reference", "hardware.master_weights")
TRAINING += ("hardware.ranks_per_copy", "hardware.logprob_tolerance")
# Those that only sampling, rewards and a reference have a use for.
GRPO: tuple[str, ...] = ("algorithm.group_size", "algorithm.temperature", "algorithm.top_p", "algorithm.updates_per_batch", "algorithm.advantage")
GRPO += ("algorithm.clip_low", "algorithm.clip_high", "algorithm.kl", "task.iou_threshold", "hardware.offload_reference")
GRPO += ("hardware.logprob_tolerance",)
# A key that files of conf/ may give, and nobody may type (`config.start`), since the entry does not read it.
UNREAD = {"unread": True}


@dataclass
class MeantFor:
    """Every such key, unchecked. An entry declares again, with their types, those that it reads; in `unread_keys` what it does not read of them."""

    unread_keys: ClassVar[tuple[str, ...]] = ()
    model: Any = field(default=None, metadata=UNREAD)
    data: Any = field(default=None, metadata=UNREAD)
    hardware: Any = field(default=None, metadata=UNREAD)
    algorithm: Any = field(default=None, metadata=UNREAD)
    seed: Any = field(default=0, metadata=UNREAD)  # conf/task refers to it
    steps: Any = field(default=None, metadata=UNREAD)
    prompts_per_step: Any = field(default=None, metadata=UNREAD)
