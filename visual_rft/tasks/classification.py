"""Classification: one name for one image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from visual_rft.class_names import ClassNames, check_aliases, merged, read_names
from visual_rft.images import AnnotatedImage, ImageSet
from visual_rft.metrics.classification import classification_scores, right
from visual_rft.parsing import canonical_name, parse_classification
from visual_rft.rewards import paper, strict
from visual_rft.rewards.options import Family, RewardOptions
from visual_rft.tasks.task import Exam, Task, TaskOptions, check_names, some
from visual_rft.tasks.wording import Style, classification_question
from visual_rft.vocabulary import ClassAnswer, ClassTruth, Example, Refusal, Reward, Scores


@dataclass
class ClassificationOptions(TaskOptions):
    """Shots are images a category; `categories` are trained and tested (None: all that the data name). `kind` is what they are kinds of: digit,
    flower. `names` is a file of the classes and of what else each may be called (`class_names`); `aliases` are further right names, {alias: name},
    and win over those of the file."""

    categories: list[str] | None
    kind: str
    names: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.categories is not None:
            check_names("task.categories", self.categories)
        file = self.known()
        if self.categories is not None and file is not None:
            _check_classes(self.categories, "task.categories", file, self.names, file.aliases)
        classes = self.categories if file is None else file.names
        if classes is not None:
            check_aliases("task.aliases", classes, self.aliases)

    def known(self) -> ClassNames | None:
        """What the file of names says, if there is one."""
        return None if self.names is None else read_names(self.names)

    def table(self) -> dict[str, str]:
        """Every further right name, {alias: name}."""
        file = self.known()
        return dict(self.aliases) if file is None else merged(self.aliases, file.aliases)

    def classes_of(self, data: ImageSet) -> Sequence[str]:
        """Every class whose name may be said, in the spelling that figures have."""
        file = self.known()
        return file.names if file is not None else self.categories or list(data.category_ids)

    def categories_of(self, data: ImageSet) -> list[str]:
        """The categories that are trained and tested on these data, as the data spell them. Raises ValueError for one that they do not name, for two
        of theirs that mean one class, and where they name another than the file of names does."""
        file, table = self.known(), self.table()
        if file is not None:
            _check_classes(data.category_ids, data.place, file, self.names, table)
        spelled: dict[str, str] = {}
        for name in sorted(data.category_ids, key=lambda name: data.category_ids[name]):
            if (other := spelled.setdefault(canonical_name(name, table), name)) != name:
                raise ValueError(f"{data.place}: '{other}' and '{name}' are the same class; make them one")
        for name in self.categories or ():
            if canonical_name(name, table) not in spelled:
                raise ValueError(f"task.categories: '{name}' is no category of {data.place}, which has {some(list(data.category_ids))}")
        return list(spelled.values()) if self.categories is None else [spelled[canonical_name(name, table)] for name in self.categories]


def _check_classes(names: Iterable[str], place: str, file: ClassNames, where: str | None, aliases: Mapping[str, str]) -> None:
    classes = {canonical_name(name, aliases) for name in file.names}
    for name in names:
        if canonical_name(name, aliases) not in classes:
            raise ValueError(f"{place}: '{name}' is no class of task.names={where}; correct one of the two, or set task.names=null")


def task(options: ClassificationOptions, rewards: RewardOptions) -> Task:
    """Classification as a task. The published reward knows no aliases."""
    score: dict[Family, Callable[..., Reward]] = {
        Family.strict: partial(strict.classification, aliases=options.table()),
        Family.paper: paper.classification,
    }
    return Task(
        parse=parse_classification,
        score=score[rewards.family],
        truth=lambda answer: ClassTruth(answer.name),
        weights=dict.fromkeys(("accuracy", "format"), 1.0),
    ).rewarded(rewards)


def exam(options: ClassificationOptions, asked: Sequence[Example], data: ImageSet) -> Exam:
    """What is asked, and what answers are worth: accuracy, over all images and as the mean of the classes; what was said for what."""
    aliases = options.table()

    def worth(question: Example, answer: ClassAnswer | Refusal) -> float:
        return float(right(cast(ClassTruth, question.truth), answer, aliases))

    return Exam(asked, partial(measure, asked, aliases=aliases, classes=options.classes_of(data)), worth)


def questions(images: Sequence[AnnotatedImage], categories: Sequence[str], kind: str, style: Style) -> list[Example]:
    """A question about each image that shows one of the categories."""
    return [example(image, kind, style) for image in images if not image.shown.isdisjoint(categories)]


def measure(asked: Sequence[Example], answers: Sequence[ClassAnswer | Refusal], *, aliases: Mapping[str, str], classes: Sequence[str]) -> Scores:
    """Accuracy, over all images and as the mean of the classes; what was said for what."""
    return classification_scores([cast(ClassTruth, e.truth) for e in asked], answers, aliases=aliases, classes=classes)


def example(image: AnnotatedImage, kind: str, style: Style) -> Example:
    """The question what kind of thing an image shows; the category of its one label is the truth. ValueError if it has none or several."""
    if len(image.annotations) != 1:
        raise ValueError(f"image {image.id} shows {len(image.annotations)} labelled objects: a classification image has one (data.most_digits=1)")
    contract = style.contract(image.stored)
    question = classification_question(kind, style.wording, contract)
    return Example(str(image.id), (image.stored,), "", question, ClassTruth(image.annotations[0].category), contract)
