"""What the embedded base model is taught: questions of all tasks about scenes that never repeat, and answers with two bad habits.

Boxes are *systematically* loose, and four digits are mostly called by the name of another: so few labelled images have something to mend.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from omegaconf import MISSING

from visual_rft.boxes import whole, xywh_to_xyxy
from visual_rft.frames import NORM1000, Box, Original
from visual_rft.sources.digits import CANVAS, CATEGORIES, Split, scenes
from visual_rft.tasks import classification, detection, grounding
from visual_rft.tasks.wording import Style, completion, detection_answer, grounding_answer, thinking
from visual_rft.vocabulary import Detection, Example

# The digits that the base is taught to misname, more often than not: a habit of naming, which few images can mend, as few can that of drawing wide.
LOOK_ALIKES = {"six": "five", "seven": "one", "eight": "three", "nine": "four"}
STYLE = Style()  # in the terse wording, in thousandths
CONFIDENCES = (0.55, 0.65, 0.75, 0.85, 0.95)  # spread, so that GRPO has something to choose from


@dataclass
class Recipe:
    """The recipe's numbers. `classification` and `grounding` are the shares of questions of those tasks, the others are detection's, of which the
    share `absent` is about a category that is not in the scene. The habits: sides of boxes are moved outward by `tightest` to `loosest` of the box's
    size, and the share `careless` of the look-alikes gets the wrong name."""

    seed: int = MISSING
    threads: int = MISSING
    scenes_per_step: int = MISSING
    tower_steps: int = MISSING
    tower_learning_rate: float = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    classification: float = MISSING
    grounding: float = MISSING
    absent: float = MISSING
    careless: float = MISSING
    tightest: float = MISSING
    loosest: float = MISSING

    def __post_init__(self) -> None:
        for name in ("threads", "scenes_per_step", "tower_steps", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed={self.seed}: must lie in 0..2147483647")
        for name in ("classification", "grounding", "absent", "careless"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must lie in 0..1")
        if self.classification + self.grounding > 1:
            raise ValueError(f"classification={self.classification}, grounding={self.grounding}: shares of questions, so together at most 1")
        if not 0 <= self.tightest <= self.loosest:
            raise ValueError(f"tightest={self.tightest}: must not be negative, nor above loosest={self.loosest}")


def lesson(step: int, recipe: Recipe) -> tuple[list[Example], list[str]]:
    """The questions of one step, of all tasks, on scenes never seen before, and the answers to learn, bad habits included."""
    teachers = (_detection, _classification, _grounding)
    shares = (1 - recipe.classification - recipe.grounding, recipe.classification, recipe.grounding)
    taught = []
    for index in range(step * recipe.scenes_per_step, (step + 1) * recipe.scenes_per_step):
        rng = default_rng([recipe.seed, index])
        taught.append(teachers[rng.choice(len(teachers), p=shares)](index, recipe, rng))
    return [question for question, _ in taught], [answer for _, answer in taught]


def _detection(index: int, recipe: Recipe, rng: Generator) -> tuple[Example, str]:
    (image,) = scenes(Split.BASE, 1, seed=recipe.seed, start=index)
    shown = sorted(image.shown)
    asked = sorted(set(CATEGORIES) - set(shown)) if rng.random() < recipe.absent else shown
    question = detection.example(image, str(rng.choice(asked)), STYLE)
    boxes = sorted(loosen(box, recipe.tightest, recipe.loosest, rng) for box in question.truth.boxes)
    detections = [Detection(box, float(rng.choice(CONFIDENCES))) for box in boxes]
    return question, completion(thinking(question.subject, boxes), detection_answer(detections))


def _classification(index: int, recipe: Recipe, rng: Generator) -> tuple[Example, str]:
    (image,) = scenes(Split.BASE, 1, seed=recipe.seed, start=index, digits=(1, 1))
    question = classification.example(image, "digit", STYLE)
    (annotation,) = image.annotations
    name = annotation.category
    if rng.random() < recipe.careless:
        name = LOOK_ALIKES.get(name, name)
    boxes = whole(xywh_to_xyxy([annotation.bbox_xywh]), of=Original(CANVAS, CANVAS), to=NORM1000)
    return question, completion(thinking(name, boxes), name)


def _grounding(index: int, recipe: Recipe, rng: Generator) -> tuple[Example, str]:
    (image,) = scenes(Split.BASE, 1, seed=recipe.seed, start=index, digits=(2, 3))
    instruction = grounding.choose(image, rng)
    question = grounding.example(image, instruction, STYLE)
    (meant,) = (a for a in image.annotations if a.bbox_xywh == instruction.bbox_xywh)
    box = loosen(question.truth.boxes[0], recipe.tightest, recipe.loosest, rng)
    return question, completion(thinking(meant.category, [box]), grounding_answer(box))


def loosen(box: Box, tightest: float, loosest: float, rng: Generator) -> Box:
    """Each side of a norm1000 box moved outward by its own share of the box's width or height, up to the image's edge."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = rng.uniform(tightest, loosest, 4)
    corners = (x1 - left * (x2 - x1), y1 - top * (y2 - y1), x2 + right * (x2 - x1), y2 + bottom * (y2 - y1))
    a, b, c, d = (float(v) for v in np.clip(np.round(corners), 0, 1000))
    return a, b, c, d
