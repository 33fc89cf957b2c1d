"""A page on this machine: drop an image, ask, and see what the model thinks and the boxes it draws.

    python -m visual_rft.demo
    python -m visual_rft.demo run=outputs/… port=7861

It needs gradio, the extra `demo`. Nothing is sent anywhere, and nobody but this machine can open the page.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING
from PIL.Image import Image

from visual_rft import hardware, workload
from visual_rft.config import Job, start
from visual_rft.hardware import HardwareOptions
from visual_rft.looking import Question, Said, answers
from visual_rft.models import loading
from visual_rft.models.loading import ModelOptions
from visual_rft.policies import of_run
from visual_rft.rollout.options import DecodingOptions
from visual_rft.sources.image_file import WHOLE, read_image, stored_file
from visual_rft.tasks.classification import ClassificationOptions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.meant import ASKING, SHOTS, TRAINING, MeantFor
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import TaskOptions
from visual_rft.vocabulary import thinking

HERE = "127.0.0.1"

# (image file, kind of question, its words) -> the image with its boxes, the thinking, what is said besides as JSON
Look = Callable[[str | None, str, str], tuple[Image, str, dict[str, Any]]]


class Kind(StrEnum):
    """What may be asked, and so what the words are."""

    DETECTION = "find every …"
    GROUNDING = "point at …"
    CLASSIFICATION = "which … is it?"
    OWN = "a whole question of your own"


@dataclass
class DemoConfig(MeantFor):
    """`run`: the folder of a run, whose newest checkpoint answers; without it `model` does. `port`: of the page. `task` says in which words it is
    asked."""

    unread_keys: ClassVar = (*SHOTS, *ASKING, *TRAINING, "task.iou_threshold", "hardware.decoded_together", "hardware.workers")
    run: str | None = None
    port: int = MISSING
    model: ModelOptions = MISSING
    task: TaskOptions = MISSING
    hardware: HardwareOptions = MISSING
    algorithm: DecodingOptions = MISSING
    seed: int = MISSING

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port={self.port}: must lie in 1..65535")


def run(job: Job[DemoConfig]) -> None:
    """Loads the model, and shows the page until it is interrupted."""
    c = job.config
    if not find_spec("gradio"):
        raise ValueError("gradio is not installed: pip install 'visual_rft[demo]', or pip install 'gradio>=6'")
    model = of_run(Path(c.run).expanduser()).model if c.run else c.model
    serve(looking(c, model), title=f"{c.run or model.path}", port=c.port)


def looking(c: DemoConfig, model: ModelOptions) -> Look:
    """What the page does with an image and a question. Raises ValueError when the model cannot be loaded; the function, for what cannot be asked."""
    speaks = loading.speaks(model)
    policy, processor = loading.load(model, hardware.prepare(c.hardware, c.seed))

    def look(file: str | None, kind: str, words: str) -> tuple[Image, str, dict[str, Any]]:
        if not file:
            raise ValueError("no image yet: drop one")
        image = read_image(Path(file))
        put = question(Kind(kind), words, c.task).put(stored_file(0, Path(file), Path(file).name, image.size, WHOLE), speaks)
        (said,) = answers(policy, processor, [put], max_tokens=c.algorithm.max_completion_tokens, together=1)
        return shown(said, image)

    return look


def question(kind: Kind, words: str, like: TaskOptions) -> Question:
    """The question that these words ask, put as a task like this puts its own. Raises ValueError where there are no words."""
    said = words.strip()
    if not said:
        raise ValueError(
            f"nothing is asked yet: write what stands for the … of “{kind}”" if "…" in kind else "nothing is asked yet: write a question"
        )
    common = (kind.name.lower(), None, False, 0, None, like.wording, like.thinking)
    detection = DetectionOptions(*common, None, None, 0.0, Present.ground_truth, None, 0.5)
    match kind:
        case Kind.DETECTION:
            return Question(detection, category=said)
        case Kind.GROUNDING:
            return Question(GroundingOptions(*common), prompt=said)
        case Kind.CLASSIFICATION:
            return Question(ClassificationOptions(*common, None, said))
    return Question(detection, prompt=said)


def shown(said: Said, image: Image) -> tuple[Image, str, dict[str, Any]]:
    """The image with its boxes, the thinking, and all that was said."""
    return said.drawn(image), thinking(said.completion), said.plain


def serve(look: Look, *, title: str, port: int) -> None:
    """The page, until it is interrupted. Raises ValueError when the port is taken."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would report its use
    gradio = import_module("gradio")

    def asked(file: str | None, kind: str, words: str) -> tuple[Image, str, dict[str, Any]]:
        try:
            return look(file, kind, words)
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    page = gradio.Interface(
        asked,
        [
            gradio.Image(type="filepath", label="image"),
            gradio.Radio([str(kind) for kind in Kind], value=str(Kind.DETECTION), label="question"),
            gradio.Textbox(label="…", placeholder="seven"),
        ],
        [gradio.Image(label="boxes", format="png"), gradio.Textbox(label="thinking"), gradio.JSON(label="answer")],
        title=title,
        flagging_mode="never",
    )
    try:
        page.launch(server_name=HERE, server_port=port, share=False)
    except OSError as error:
        raise ValueError(f"port={port}: {str(error).splitlines()[0]}; give another") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(DemoConfig, "demo", run, argv, schemas=workload.SCHEMAS)


if __name__ == "__main__":
    sys.exit(main())
