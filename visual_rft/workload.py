"""What a run works on: a task, the examples it is trained on, the exam it is tested with."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from visual_rft.boxes import convert, whole, xyxy_to_xywh
from visual_rft.frames import NORM1000, Contract, Frame, Original, Speaks
from visual_rft.images import AnnotatedImage, Annotation, ImageSet, StoredImage
from visual_rft.rewards.options import RewardOptions
from visual_rft.seeding import Role, stream
from visual_rft.sources import class_folders, coco, conversations, digits, fine_grained, lisa, rows
from visual_rft.sources.few_shot import Pairs, absent, every, k_shot
from visual_rft.sources.findings import Findings
from visual_rft.sources.jsonl import read_text
from visual_rft.sources.options import DataOptions
from visual_rft.sources.predictions import completions
from visual_rft.sources.rows import Row
from visual_rft.sources.split_file import read_split, split_of
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import Exam, Task, TaskOptions
from visual_rft.tasks.wording import Style, Wording, grounding_question
from visual_rft.vocabulary import ClassTruth, DetectionTruth, Example, GroundingTruth, Truth, thinking

TEST_SEED = 0  # the test scenes, and what is asked of them, never change

# The schemas a YAML of conf/ may begin with: conf/task/cls_digits.yaml has `- /task/classification_schema@task` in its defaults.
SCHEMAS: dict[str, type] = {
    "task/detection": detection.DetectionOptions,
    "task/classification": classification.ClassificationOptions,
    "task/grounding": grounding.GroundingOptions,
    "data/digits": digits.DigitOptions,
    "data/coco": coco.CocoOptions,
    "data/flowers102": fine_grained.FlowersOptions,
    "data/pets37": fine_grained.PetsOptions,
    "data/aircraft": fine_grained.AircraftOptions,
    "data/cars196": fine_grained.CarsOptions,
    "data/class_folders": class_folders.ClassFolderOptions,
    "data/rows": rows.RowOptions,
    "data/conversations": conversations.ConversationOptions,
    "data/lisa": lisa.LisaOptions,
}


@dataclass(frozen=True)
class RowSet:
    """Rows of image, problem and solution; whether their solutions are in pixels of the image, not in thousandths; whether answers are in the frame
    that the model speaks, not in that of the solutions. Problems are asked word for word; or they only say what is meant, and `words` ask for it, in
    the wording of the task and by a contract."""

    rows: Sequence[Row]
    place: str
    in_pixels: bool = False
    as_spoken: bool = False
    words: Callable[[str, Wording, Contract], str] | None = None


def task(options: TaskOptions, rewards: RewardOptions) -> Task:
    """The task of these options. Raises ValueError on a weight for a reward part that it does not have."""
    return _KINDS[type(options)].task(options, rewards)


def train_examples(options: TaskOptions, data: DataOptions, speaks: Speaks) -> list[Example]:
    """The few shots, drawn by `task.split_seed` or listed in `task.split`, or the rows of the data. Raises ValueError when data are missing or there
    are fewer images than shots."""
    return examples_of(options, training_data(data, options.split_seed), speaks)


def test_exam(options: TaskOptions, data: DataOptions, speaks: Speaks) -> Exam:
    """The exam, the same for every seed. Raises ValueError when data are missing."""
    return exam_of(options, test_data(data), speaks)


def examples_of(options: TaskOptions, found: ImageSet | RowSet, speaks: Speaks, findings: Findings | None = None) -> list[Example]:
    """The training examples of data that were read. Rows that cannot be taken go to `findings`."""
    kind, style = _KINDS[type(options)], options.style(speaks)
    if isinstance(found, RowSet):
        for key, neutral in (("shots", None), ("split", None), ("negatives", 0.0)):
            if getattr(options, key, neutral) != neutral:
                reason = "rows of image, problem and solution are a split already"
                raise ValueError(f"task.{key}={getattr(options, key)}: {reason}; set task.{key}={'null' if neutral is None else 0}")
        return _some(_of_rows(task(options, RewardOptions()), found.rows, found, style, findings or Findings()), found.place)
    images = {image.id: image for image in found.images}
    stored = {i: image.stored for i, image in images.items()}
    pairs = kind.choose(options, found) if options.split is None else read_split(options.split, stored, kind.subjects(options, found))
    return _some([kind.example(options, images[i], subject, style) for i, subject in pairs], found.place)


def exam_of(options: TaskOptions, found: ImageSet | RowSet, speaks: Speaks, findings: Findings | None = None) -> Exam:
    """The exam of data that were read. Rows that cannot be taken go to `findings`."""
    kind, style = _KINDS[type(options)], options.style(speaks)
    if isinstance(found, ImageSet):
        exam = kind.exam(options, _some(kind.questions(options, found, style), found.place), found)
    elif (present := getattr(options, "present", Present.ground_truth)) is not Present.ground_truth:
        raise ValueError(f"task.present={present}: rows of image, problem and solution ask what they ask; leave it at ground_truth")
    else:
        of, apart = task(options, RewardOptions()), _apart(found.rows)
        asked = _some(_of_rows(of, apart, found, style, findings or Findings()), found.place)
        exam = kind.exam(options, asked, _labelled(asked, found, {row.id: row for row in apart}, of))
    file = options.presence if isinstance(options, detection.DetectionOptions) else None
    if file is None or exam.screening is None:
        return exam
    first = exam.screening.questions
    return exam.knowing({one.id: text for one, text in zip(first, completions(file, read_text(file), first), strict=True)})


def _some(examples: list[Example], place: str) -> list[Example]:
    if not examples:
        raise ValueError(f"{place}: nothing in it is asked about; give other data, or other categories")
    return examples


def split(options: TaskOptions, examples: Sequence[Example]) -> dict[str, Any]:
    """The split that the training examples are, to be published and given back as `task.split`."""
    drawn = {"shots": options.shots, "seed": options.split_seed} if options.split is None else {"given": options.split}
    return split_of(examples, {"task": options.name} | drawn)


def training_data(data: DataOptions, seed: int, findings: Findings | None = None) -> ImageSet | RowSet:
    """What there is to train on. What cannot be taken goes to `findings`."""
    return _SOURCES[type(data)].train(data, seed, findings or Findings())


def test_data(data: DataOptions, findings: Findings | None = None) -> ImageSet | RowSet:
    """What there is to test on. What cannot be taken goes to `findings`."""
    return _SOURCES[type(data)].test(data, findings or Findings())


def _of_rows(of: Task, rows: Sequence[Row], found: RowSet, style: Style, findings: Findings) -> list[Example]:
    examples = []
    for row in rows:
        try:
            examples.append(_row_example(of, row, found, style))
        except ValueError as error:
            findings.refuse(f"{row.place}: {error}; write `solution` as a right answer is written", error)
    return examples


def _row_example(of: Task, row: Row, found: RowSet, style: Style) -> Example:
    """The question of a row. Raises ValueError for a solution that is none."""
    image = row.images[-1]
    written = _written(image, found)
    contract = style.contract(image) if found.as_spoken else Contract(written, style.thinking)
    truth = restated(of.solution(row.solution, Contract(written)), written, contract.frame)
    question = found.words(row.problem, style.wording, contract) if found.words else row.problem
    subject = row.category or ("" if isinstance(truth, ClassTruth) else "object")  # of a name the image alone says what it is about
    return Example(row.id, row.images, subject, question, truth, contract, thinking(row.solution))


def _written(image: StoredImage, found: RowSet) -> Frame:
    """What the numbers of a solution count."""
    return Original(*image.size) if found.in_pixels else NORM1000


def restated(truth: Truth, of: Frame, to: Frame) -> Truth:
    """The same truth in another frame, in whole numbers; in its own frame, untouched."""
    if of == to or isinstance(truth, ClassTruth):
        return truth
    boxes = whole(truth.boxes, of=of, to=to) if truth.boxes else ()
    return DetectionTruth(boxes) if isinstance(truth, DetectionTruth) else GroundingTruth(*boxes)


def _apart(rows: Sequence[Row]) -> list[Row]:
    """Rows that are scored each as an image of its own, whoever shares its file."""
    return [
        replace(row, images=(*(replace(one, id=len(rows) + one.id) for one in row.images[:-1]), replace(row.images[-1], id=number)))
        for number, row in enumerate(rows)
    ]


def _labelled(asked: Sequence[Example], found: RowSet, rows: Mapping[str, Row], of: Task) -> ImageSet:
    """What rows say is true, as they say it, as labels of their images."""
    images = []
    for example in asked:
        image, written = example.asked_about, _written(example.asked_about, found)
        boxes = of.solution(rows[example.id].solution, Contract(written)).boxes
        pixels = xyxy_to_xywh(convert(boxes, of=written, to=Original(*image.size))).tolist()
        images.append(AnnotatedImage(image, tuple(Annotation(example.subject, (x, y, w, h)) for x, y, w, h in pixels)))
    names = sorted({example.subject for example in asked} - {""})
    return ImageSet(images, {name: number for number, name in enumerate(names, start=1)}, found.place)


def _choose_detection(options: detection.DetectionOptions, data: ImageSet) -> Pairs:
    trained, shown = options.trained_of(data), {image.id: image.shown for image in data.images}
    if options.shots is None:
        pairs = every(shown, trained)
    else:
        pairs = k_shot(shown, trained, shots=options.shots, at_most=options.at_most, seed=options.split_seed)
    if not options.negatives:
        return pairs
    return pairs + absent({i.id: detection.lacking(i, trained) for i in data.images}, pairs, share=options.negatives, seed=options.split_seed)


def _choose_classification(options: classification.ClassificationOptions, data: ImageSet) -> Pairs:
    categories, shown = options.categories_of(data), {image.id: image.shown for image in data.images}
    if options.shots is None:
        return [(i, "") for i, _ in every(shown, categories)]
    return [(i, "") for i, _ in k_shot(shown, categories, shots=options.shots, at_most=options.at_most, seed=options.split_seed)]


def _choose_grounding(options: grounding.GroundingOptions, data: ImageSet) -> Pairs:
    """Shots are images a sort of instruction."""
    rng = stream(Role.SHOTS, options.split_seed)
    chosen = {image.id: grounding.choose(image, rng) for image in data.images}
    sorts = sorted({instruction.sort for instruction in chosen.values()})
    if options.shots is None:
        return [(i, instruction.text) for i, instruction in chosen.items()]
    pairs = k_shot({i: {one.sort} for i, one in chosen.items()}, sorts, shots=options.shots, at_most=options.at_most, seed=options.split_seed)
    return [(i, chosen[i].text) for i, _ in pairs]


def _instruct(image: AnnotatedImage, text: str, style: Style) -> Example:
    try:
        return grounding.example(image, next(one for one in image.instructions if one.text == text), style)
    except StopIteration:
        raise ValueError(f"task.split: image {image.stored.name} has no instruction {text!r}; give the data the split was drawn from") from None


@dataclass(frozen=True)
class _Kind:
    """How the options of one kind of task become the task; which images are asked what in training, and what a split file may ask (None: what an
    image knows); a question about an image; the questions of an exam; the exam that they are."""

    task: Callable[[Any, RewardOptions], Task]
    choose: Callable[[Any, ImageSet], Pairs]
    subjects: Callable[[Any, ImageSet], Collection[str] | None]
    example: Callable[[Any, AnnotatedImage, str, Style], Example]
    questions: Callable[[Any, ImageSet, Style], list[Example]]
    exam: Callable[[Any, Sequence[Example], ImageSet], Exam]


@dataclass(frozen=True)
class _Source:
    """How the options of one kind of data become images or rows: (options, seed, findings) for training, (options, findings) for the test."""

    train: Callable[[Any, int, Findings], ImageSet | RowSet]
    test: Callable[[Any, Findings], ImageSet | RowSet]


def _rows(key: str, path: str | None, data: rows.RowOptions, split: str, findings: Findings) -> RowSet:
    if path is None:
        raise ValueError(f"{key}: must be given, a path or a name on the hub, {key}=…")
    found = rows.read_rows(path, images=data.images, split=split, findings=findings)
    return RowSet(found, path, data.solution_frame is rows.Frames.pixels, data.answer_frame is rows.Answered.model)


def _or_rows(path: str | None, images: Callable[[], ImageSet], findings: Findings) -> ImageSet | RowSet:
    """The images to train on, or the rows that stand in for them."""
    return images() if path is None else RowSet(rows.read_rows(path, images=None, split="train", findings=findings), path)


def _published(read: fine_grained.Reader) -> "_Source":
    return _Source(
        lambda data, _, findings: _or_rows(data.train_rows, lambda: read(data.root, "train", findings), findings),
        lambda data, findings: read(data.root, "test", findings),
    )


def _conversations(of: conversations.Conversations, data: conversations.ConversationOptions) -> RowSet:
    return RowSet(of.rows, of.place, data.solution_frame is rows.Frames.pixels, as_spoken=True, words=grounding_question)


_KINDS: dict[type, _Kind] = {
    detection.DetectionOptions: _Kind(
        task=detection.task,
        choose=_choose_detection,
        subjects=lambda options, data: options.trained_of(data),
        example=lambda _, image, category, style: detection.example(image, category, style),
        questions=lambda options, data, style: detection.questions(data.images, options.tested_of(data), options.present, style),
        exam=detection.exam,
    ),
    classification.ClassificationOptions: _Kind(
        task=classification.task,
        choose=_choose_classification,
        subjects=lambda _, __: ("",),
        example=lambda options, image, _, style: classification.example(image, options.kind, style),
        questions=lambda options, data, style: classification.questions(data.images, options.categories_of(data), options.kind, style),
        exam=classification.exam,
    ),
    grounding.GroundingOptions: _Kind(
        task=grounding.task,
        choose=_choose_grounding,
        subjects=lambda _, __: None,
        example=lambda _, image, text, style: _instruct(image, text, style),
        questions=lambda _, data, style: grounding.questions(data.images, stream(Role.TEST, TEST_SEED), style),
        exam=grounding.exam,
    ),
}
_SOURCES: dict[type, _Source] = {
    digits.DigitOptions: _Source(digits.train_images, lambda data, _: digits.test_images(data, TEST_SEED)),
    coco.CocoOptions: _Source(
        lambda data, _, findings: _or_rows(data.train_rows, lambda: coco.train_images(data, findings), findings), coco.test_images
    ),
    fine_grained.FlowersOptions: _published(fine_grained.flowers),
    fine_grained.PetsOptions: _published(fine_grained.pets),
    fine_grained.AircraftOptions: _published(fine_grained.aircraft),
    fine_grained.CarsOptions: _published(fine_grained.cars),
    class_folders.ClassFolderOptions: _Source(lambda data, _, findings: class_folders.train_images(data, findings), class_folders.test_images),
    rows.RowOptions: _Source(
        lambda data, _, findings: _rows("data.train", data.train, data, data.train_split, findings),
        lambda data, findings: _rows("data.test", data.test, data, data.test_split, findings),
    ),
    conversations.ConversationOptions: _Source(
        lambda data, _, findings: _conversations(conversations.train_rows(data, findings), data),
        lambda data, findings: _conversations(conversations.test_rows(data, findings), data),
    ),
    lisa.LisaOptions: _Source(lambda data, _, findings: lisa.train_images(data, findings), lisa.test_images),
}
