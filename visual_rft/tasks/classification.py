"""Classification: one name for one image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from visual_rft.images import AnnotatedImage, ImageSet
from visual_rft.metrics.classification import classification_scores
from visual_rft.parsing import parse_classification
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.task import Exam, Task, TaskOptions, check_names
from visual_rft.tasks.wording import Style, classification_question
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Example, Refusal, Reward, Scores


@dataclass
class ClassificationOptions(TaskOptions):
    """Shots are images a category; `categories` are trained and tested. `kind` is what they are kinds of: digit, flower. `aliases` are further right
    names: {alias: name}."""

    categories: list[str]
    kind: str
    aliases: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names("task.categories", self.categories)


def task(options: ClassificationOptions, rewards: RewardOptions) -> Task:
    """Classification as a task. The published reward knows no aliases."""
    score: dict[Family, Callable[..., Reward]] = {
        Family.strict: partial(strict.classification, aliases=options.aliases),
        Family.paper: paper.classification,
    }
    return Task(
        parse=parse_classification,
        score=score[rewards.family],
        truth=lambda answer: ClassTruth(answer.name),
        weights=dict.fromkeys(("accuracy", "format"), 1.0),
    ).rewarded(rewards)


def exam(options: ClassificationOptions, asked: Sequence[Example], _: ImageSet) -> Exam:
    """What is asked, and what answers are worth: accuracy, over all images and as the mean of the classes."""
    return Exam(asked, partial(measure, asked, aliases=options.aliases))


def questions(images: Sequence[AnnotatedImage], categories: Sequence[str], kind: str, style: Style) -> list[Example]:
    """A question about each image that shows one of the categories."""
    return [example(image, kind, style) for image in images if not image.shown.isdisjoint(categories)]


def measure(asked: Sequence[Example], answers: Sequence[ClassAnswer | Refusal], *, aliases: dict[str, str]) -> Scores:
    """Accuracy, over all images and as the mean of the classes."""
    return classification_scores([cast(ClassTruth, e.truth) for e in asked], answers, aliases=aliases)


def example(image: AnnotatedImage, kind: str, style: Style) -> Example:
    """The question what kind of thing an image shows; the category of its one label is the truth. ValueError if it has none or several."""
    if len(image.annotations) != 1:
        raise ValueError(f"image {image.id} shows {len(image.annotations)} labelled objects: a classification image has one (data.most_digits=1)")
    contract = style.contract(image.stored)
    question = classification_question(kind, style.wording, contract)
    return Example(str(image.id), (image.stored,), "", question, ClassTruth(image.annotations[0].category), contract)
