"""What there is in the data of a task, and everything that is wrong with it: each file is read to its end, each image is opened."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from visual_rft import workload
from visual_rft.frames import NORM1000
from visual_rft.images import ImageSet, StoredImage
from visual_rft.sources.findings import Findings
from visual_rft.sources.image_file import HANDLED
from visual_rft.sources.options import DataOptions
from visual_rft.tasks.task import TaskOptions
from visual_rft.vocabulary import ClassTruth, Example

THREADS = 4  # images are decoded beside each other

# A stage of so many items, by its name: within it one tells how many more are done.
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Part(StrEnum):
    """Of the data of a task."""

    train = "train"
    test = "test"


class Looked(StrEnum):
    """Which images are opened."""

    all = "all"
    asked = "asked"  # those that the task asks about
    none = "none"


@dataclass(frozen=True)
class Inspection:
    """Of one part: where it is; how many images, objects and questions; images and objects by category; what was taken as a matter of course, by
    kind; what could not be, a line each."""

    part: Part
    place: str
    images: int
    objects: int
    questions: int
    by_category: Mapping[str, tuple[int, int]]
    handled: Mapping[str, int]
    faults: Sequence[str]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect(options: TaskOptions, data: DataOptions, part: Part, looked: Looked, stage: Stage) -> Inspection:
    """All that one part holds; `stage` shows how many of its images are opened."""
    findings = Findings(patient=True)
    try:
        found = workload.training_data(data, options.split_seed, findings) if part is Part.train else workload.test_data(data, findings)
    except ValueError as fault:
        return Inspection(part, "", 0, 0, 0, {}, {}, [*findings.faults, str(fault)])
    asked = list(_asked(options, found, part, findings))
    shown = _images(found) if looked is Looked.all else (image for example in asked for image in example.images)
    images = {image.id: image for image in shown}
    if looked is not Looked.none:
        with stage(f"open images of {part}", len(images)) as advance:
            _look(list(images.values()), findings, advance)
    by_category = _by_category(found, asked)
    count = len(found.images) if isinstance(found, ImageSet) else len({image.id for image in _images(found)})
    objects = sum(objects for _, objects in by_category.values())
    handled = {kind: times for kind, times in sorted(findings.handled.items()) if times}
    return Inspection(part, found.place, count, objects, len(asked), by_category, handled, findings.faults)


def _asked(options: TaskOptions, found: "ImageSet | workload.RowSet", part: Part, findings: Findings) -> Sequence[Example]:
    try:
        if part is Part.train:
            return workload.examples_of(options, found, lambda _: NORM1000, findings)
        return workload.exam_of(options, found, lambda _: NORM1000, findings).questions
    except ValueError as fault:
        findings.faults.append(str(fault))
        return ()


def _images(found: "ImageSet | workload.RowSet") -> Iterator[StoredImage]:
    if isinstance(found, ImageSet):
        yield from (image.stored for image in found.images)
    else:
        yield from (image for row in found.rows for image in row.images)


def _look(images: Sequence[StoredImage], findings: Findings, advance: Callable[[int], None]) -> None:
    def opened(image: StoredImage) -> tuple[tuple[str, ...], str | None]:
        try:
            return image.open().info.get(HANDLED, ()), None
        except ValueError as fault:
            return (), str(fault)

    with ThreadPoolExecutor(THREADS) as threads:
        for handled, fault in threads.map(opened, images):
            for kind in handled:
                findings.handle(kind)
            if fault:
                findings.faults.append(fault)
            advance(1)


def _by_category(found: "ImageSet | workload.RowSet", asked: Iterable[Example]) -> dict[str, tuple[int, int]]:
    """Images and objects; of rows what they ask about."""
    images, objects = Counter[str](), Counter[str]()
    if isinstance(found, ImageSet):
        names = list(found.category_ids)
        for image in found.images:
            shown = [one.category for one in image.objects]
            objects.update(shown)
            images.update(set(shown))
    else:
        asked = list(asked)
        found_in = [(e.truth.name, e, 1) if isinstance(e.truth, ClassTruth) else (e.subject, e, len(e.truth.boxes)) for e in asked]
        names = sorted({name for name, _, _ in found_in})
        images.update(name for name, _ in {(name, example.asked_about.id) for name, example, _ in found_in})
        for name, _, count in found_in:
            objects[name] += count
    return {name: (images[name], objects[name]) for name in names}
