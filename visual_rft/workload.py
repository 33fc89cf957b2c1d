"""What a run works on: a task with its training examples and its test questions."""

from dataclasses import dataclass

from numpy.random import default_rng

from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.digits import CATEGORIES, DigitOptions, Split, scenes
from visual_rft.sources.few_shot import fingerprint, k_shot
from visual_rft.tasks.detection import DetectionOptions, DetectionTask, example, questions
from visual_rft.vocabulary import Example

TEST_SEED = 0  # the test scenes never change


@dataclass
class TaskOptions(DetectionOptions):
    """A detection task and where its images come from. `split_seed` draws the shots."""

    split_seed: int
    source: DigitOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.split_seed < 2**31:
            raise ValueError(f"task.split_seed={self.split_seed}: must lie in 0..2147483647")


@dataclass(frozen=True)
class Workload:
    """A task, the examples it is trained on, the questions it is tested with, and a fingerprint of each."""

    task: DetectionTask
    train: list[Example]
    test: list[Example]

    def fingerprints(self) -> dict[str, str]:
        return {"train": fingerprint(self.train), "test": fingerprint(self.test)}


def build(options: TaskOptions, rewards: RewardOptions) -> Workload:
    """Draws the scenes, splits them and turns them into questions. Raises ValueError when there are fewer images than shots."""
    images = scenes(Split.TRAIN, options.source.images, seed=options.split_seed)
    pairs = k_shot(images, CATEGORIES, shots=options.shots, negatives=options.negatives, rng=default_rng(options.split_seed))
    test = questions(scenes(Split.TEST, options.source.test_images, seed=TEST_SEED), CATEGORIES, options.present)
    return Workload(DetectionTask(CATEGORIES, rewards), [example(image, category) for image, category in pairs], test)
