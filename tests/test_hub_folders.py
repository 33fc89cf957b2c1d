"""A model folder as it is found on the hub, in any of its layouts, is read as the stock classes read it.

    .venv/bin/python -m pytest tests/test_hub_folders.py

What is known of the published models themselves is checked in tests/test_published.py, names on the hub in tests/test_hub.py.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import Family
from hub_folders import IMAGE, SYSTEM, Layout, tokenizer, write
from hub_models import PUBLISHED
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_rft.hardware import Attention, Machine
from visual_rft.models.loading import FAMILY, ModelOptions, beside_weights, load, save
from visual_rft.models.processor import Processor

CPU = Machine(torch.device("cpu"), torch.float32, Attention.sdpa)
QUESTION = "Detect all objects  of the category 'cat' — all.\nThink first:\n\n"
SIZES = [(150, 90), (64, 64), (40, 220)]
MIN, MAX = 3136, 20000

FIVE: dict[str, Any] = {"five": True, "chat": "chat_template.jinja"}
LAYOUTS = [
    *(Layout(family, tied) for family in Family for tied in (True, False)),
    *(Layout(family, tied, **FIVE) for family in Family for tied in (True, False)),
    *(Layout(family, chat="tokenizer_config.json", vocabulary="merges.txt") for family in Family),
    Layout(Family.qwen2_5_vl, images="Qwen2_5_VLImageProcessor"),
    Layout(Family.qwen2_vl, images="processor_config.json", **FIVE),
    Layout(Family.qwen3_vl, images="processor_config.json", **FIVE),
]
SLOW = dict.fromkeys(("Qwen2-VL-7B", "Qwen2.5-VL-7B", "Qwen3-VL-4B"), pytest.mark.slow)
TRUE_WIDTHS = [pytest.param(Layout(numbers.family, numbers.tied, widths=name), marks=SLOW.get(name, ())) for name, numbers in PUBLISHED.items()]


def options(place: Path, max_pixels: int = MAX) -> ModelOptions:
    return ModelOptions("small", str(place), MIN, max_pixels, 1e-6)


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


def documented(family: Family, question: str, cells: list[int]) -> str:
    """The prompt that the published templates give for so many images and a question, each placeholder repeated for the cells of its image."""
    shown = "".join(IMAGE.replace("<|image_pad|>", "<|image_pad|>" * count) for count in cells)
    system = "" if family is Family.qwen3_vl else SYSTEM
    return f"{system}<|im_start|>user\n{shown}{question}<|im_end|>\n<|im_start|>assistant\n"


def stock_logprobs(place: Path, ids: Tensor, images: list[Image.Image], banned: Tensor) -> Tensor:
    """logprobs_SV of the next token after each, by the stock model and the stock image processor of a folder."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(place, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(place)
    pixels = processor(images, size={"shortest_edge": MIN, "longest_edge": MAX}, return_tensors="pt")
    types = (ids == model.config.image_token_id).int()[None]
    out = model(input_ids=ids[None], **pixels, mm_token_type_ids=types, use_cache=False)
    return torch.log_softmax(out.logits[0].index_fill(1, banned, float("-inf")), -1)


@torch.no_grad()
@pytest.mark.parametrize("layout", [*LAYOUTS, *TRUE_WIDTHS], ids=str)
def test_every_layout_is_read_as_stock_classes_read_it(layout: Layout, tmp_path: Path) -> None:
    place, images = write(layout, tmp_path / "model"), pictures()
    policy, processor = load(options(place), CPU)
    pixels = processor.pixels(images)
    cells = [int(h) * int(w) // 4 for _, h, w in pixels.grid_I3]
    ids = torch.tensor(tokenizer().encode(documented(layout.family, QUESTION, cells), add_special_tokens=False).ids)
    tokens = processor.prompt(QUESTION, pixels.grid_I3)
    assert torch.equal(tokens, ids) and int((tokens == policy.model.config.image_token_id).sum()) == sum(cells)

    said = processor.encode("<answer>[{'Position': [1, 2, 3, 4], 'Confidence': 0.9}]</answer>")
    prompt = policy.prompt(tokens, range(len(images)), pixels.grid_I3)
    ours_T = policy([prompt], policy.encode(pixels), [[said]], 1.0).logprobs_BT[0]
    if layout.images.startswith("Qwen2_5"):
        with pytest.raises(ValueError, match="Unrecognized image processor"):
            transformers.AutoImageProcessor.from_pretrained(place)
        file = place / "preprocessor_config.json"
        file.write_text(file.read_text().replace(layout.images, "Qwen2VLImageProcessor"))
    theirs_SV = stock_logprobs(place, torch.cat([tokens, said]), images, policy.banned)
    torch.testing.assert_close(ours_T, theirs_SV[len(tokens) - 1 : -1].gather(1, said[:, None])[:, 0], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_saved_of_it_is_the_same_model_for_us_and_for_stock_classes(layout: Layout, tmp_path: Path) -> None:
    policy, processor = load(options(write(layout, tmp_path / "model")), CPU)
    save(policy, processor, tmp_path / "saved")
    again, its = load(options(tmp_path / "saved"), CPU)
    stock = dict(transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype=torch.float32).named_parameters())
    assert stock.keys() == dict(policy.model.named_parameters()).keys()
    for (name, before), after in zip(policy.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(before, after) and torch.equal(before, stock[name])
    grid_I3 = processor.pixels(pictures()).grid_I3
    assert torch.equal(processor.prompt(QUESTION, grid_I3), its.prompt(QUESTION, its.pixels(pictures()).grid_I3))
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved")) is Qwen2VLImageProcessorPil
    said = json.loads((tmp_path / "saved/preprocessor_config.json").read_text())
    assert said["processor_class"] == FAMILY[layout.family].processor and {"min_pixels", "max_pixels"}.isdisjoint(said)
    ends = {json.loads((tmp_path / folder / "generation_config.json").read_text())["temperature"] for folder in ("model", "saved")}
    assert len(ends) == 1 and ends.pop() < 0.1


@pytest.mark.parametrize("family", Family)
def test_our_limits_go_before_those_of_the_folder(family: Family, tmp_path: Path) -> None:
    """Which allow twelve million pixels."""
    place = write(Layout(family), tmp_path / "model")
    large = [Image.new("RGB", (1200, 900))]
    for limit in (MAX, 80000):
        images = Processor.load(place, min_pixels=MIN, max_pixels=limit)
        assert limit / 2 < images.pixels(large).grid_I3.prod() * images.images.patch_size**2 <= limit


@pytest.mark.parametrize("family", Family)
def test_tokens_that_a_completion_may_hold_are_text_and_the_end(family: Family, tmp_path: Path) -> None:
    """Rows of the embedding above the tokenizer's last token have no text."""
    policy, processor = load(options(write(Layout(family), tmp_path / "model")), CPU)
    special = {processor.tokenizer.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|im_start|>", "<|endoftext|>", "<|video_pad|>")}
    assert processor.end_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>") and None not in special
    assert special.isdisjoint(processor.allowed_ids) and processor.end_id in processor.allowed_ids
    assert set(policy.banned.tolist()) | set(processor.allowed_ids) == set(range(policy.model.config.get_text_config().vocab_size))


@pytest.mark.parametrize("family", Family)
def test_a_newer_template_goes_before_an_older_and_that_before_the_tokenizers(family: Family, tmp_path: Path) -> None:
    """As in the stock processor."""
    place = write(Layout(family, chat="tokenizer_config.json"), tmp_path / "model")

    def says() -> str:
        return str(Processor.load(place, min_pixels=MIN, max_pixels=MAX).tokenizer.chat_template)

    in_the_tokenizer = says()
    (place / "chat_template.json").write_text(json.dumps({"chat_template": "older"}))
    older = says()
    (place / "chat_template.jinja").write_text("newer")
    assert ("im_start" in in_the_tokenizer, older, says()) == (True, "older", "newer")


def test_a_folder_without_a_template_or_with_a_damaged_one_is_refused_in_one_line(tmp_path: Path) -> None:
    place = write(Layout(Family.qwen2_vl), tmp_path / "model")
    for damage in (lambda file: file.write_text("{"), lambda file: file.write_text("[]"), Path.unlink):
        damage(place / "chat_template.json")
        with pytest.raises(ValueError, match=rf"model\.path={place}: {place} is no readable Qwen2-VL folder \(.*\); copy it again, whole$"):
            load(options(place), CPU)


def test_beside_the_weights_lies_all_else(tmp_path: Path) -> None:
    place = write(Layout(Family.qwen3_vl), tmp_path / "model")
    (place / "model.py").write_text("raise SystemExit")
    kept = beside_weights(str(place))
    assert {"vocab.json", "merges.txt", "chat_template.json", "tokenizer.json", "preprocessor_config.json"} < kept.keys()
    assert not any("safetensors" in name or name.endswith(".py") for name in kept)


# Where images stand in a question


@pytest.fixture(scope="module", params=Family)
def family_and_processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Processor]:
    place = write(Layout(request.param), tmp_path_factory.mktemp("hub") / "model")
    return request.param, Processor.load(place, min_pixels=MIN, max_pixels=MAX)


def test_each_image_stands_at_its_mark_and_the_text_around_stays_as_it_is(family_and_processor: tuple[Family, Processor]) -> None:
    family, processor = family_and_processor
    grid_I3 = processor.pixels(pictures()).grid_I3
    cells = (grid_I3.prod(-1) // 4).tolist()
    for question in (" First:\n<image> then  <image><image>,\nwhich? ", "<image><image><image>Which?", "Which of <image>, <image> and <image>"):
        body = "".join(text + f"@{i}" for i, text in enumerate(question.split("<image>"))).removesuffix("@3")
        for i, count in enumerate(cells):
            body = body.replace(f"@{i}", IMAGE.replace("<|image_pad|>", "<|image_pad|>" * count))
        expected = documented(family, body, [])
        assert processor.tokenizer.decode(processor.prompt(question, grid_I3)) == expected


def test_images_come_before_a_question_without_marks(family_and_processor: tuple[Family, Processor]) -> None:
    family, processor = family_and_processor
    grid_I3 = processor.pixels(pictures()).grid_I3
    for shown in range(4):
        tokens = processor.prompt(QUESTION, grid_I3[:shown])
        assert processor.tokenizer.decode(tokens) == documented(family, QUESTION, (grid_I3[:shown].prod(-1) // 4).tolist())
        assert torch.equal(tokens, processor.prompt("<image>" * shown + QUESTION, grid_I3[:shown]))


@pytest.mark.parametrize(("marks", "images"), [(1, 0), (1, 2), (2, 1), (3, 2)])
def test_another_number_of_marks_than_of_images_is_refused(family_and_processor: tuple[Family, Processor], marks: int, images: int) -> None:
    grid_I3 = torch.tensor([[1, 4, 4]] * images, dtype=torch.int64).reshape(images, 3)
    line = rf"a question holds <image> {marks} times, with {images} images: '.*'; once for each image, or never$"
    with pytest.raises(ValueError, match=line):
        family_and_processor[1].prompt("<image> or" * marks, grid_I3)


# Without torchvision, and with it


def test_nothing_here_imports_torchvision() -> None:
    for path in (Path(__file__).parents[1] / "visual_rft").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(module.split(".")[0] == "torchvision" for module in modules if isinstance(node, (ast.Import, ast.ImportFrom))), path


WITH_TORCHVISION = """
import sys, torch, numpy as np
from pathlib import Path
from typing import Any
from PIL import Image
from transformers.utils import is_torchvision_available
from visual_rft.models.processor import Processor
assert is_torchvision_available()
pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8))
processor = Processor.load(Path(sys.argv[1]), min_pixels=3136, max_pixels=20000)
torch.save(processor.pixels([pixels]).patches_RD, sys.argv[2])
print(type(processor.images).__name__)
"""

STUB = """
from enum import Enum
__version__ = "0.99"
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Enum(name, "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS") if name == "InterpolationMode" else type(name, (), {})
"""


def test_with_torchvision_images_become_the_same_pixels(tmp_path: Path) -> None:
    """A stub stands for it, which transformers takes for the library: it cannot be installed beside this machine's torch."""
    stub = tmp_path / "stub"
    for name in ("", "/io", "/transforms", "/transforms/functional", "/transforms/v2", "/transforms/v2/functional"):
        (stub / f"torchvision{name}").mkdir(parents=True)
        (stub / f"torchvision{name}/__init__.py").write_text(STUB)
    (stub / "torchvision-0.99.dist-info").mkdir()
    (stub / "torchvision-0.99.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\n")
    place = write(Layout(Family.qwen2_vl), tmp_path / "model")
    path = os.pathsep.join([str(stub), str(Path(__file__).parents[1])])
    ran = subprocess.run(
        [sys.executable, "-c", WITH_TORCHVISION, str(place), str(tmp_path / "patches")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == Qwen2VLImageProcessorPil.__name__
    ours = Processor.load(place, min_pixels=MIN, max_pixels=MAX).pixels(pictures()[:1]).patches_RD
    assert torch.equal(torch.load(tmp_path / "patches"), ours)
