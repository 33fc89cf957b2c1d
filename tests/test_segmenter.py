"""Laws of the masks that SAM makes of boxes, on a small random one: `pytest tests/test_segmenter.py`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from grounding_data import stand_in
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SamModel
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.sam.processing_sam import SamProcessor

from visual_rft.images import StoredImage
from visual_rft.models import segmenter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam") / "sam"
    stand_in().sam(folder)
    return folder


def pictured(seed: int, width: int, height: int) -> StoredImage:
    return StoredImage.of(seed, Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)))


@pytest.mark.parametrize(("width", "height"), [(90, 40), (33, 97), (64, 64), (200, 150), (7, 5)])
def test_a_mask_is_the_best_of_those_of_transformers_own_processor(width: int, height: int, sam: Path) -> None:
    image, box = pictured(width, width, height), (0.15 * width, 0.2 * height, 0.7 * width, 0.9 * height)
    with segmenter.opened(str(sam), CPU) as segment:
        ours = segment(image, box)
    processor, model = SamProcessor(SamImageProcessorPil.from_pretrained(sam)), SamModel.from_pretrained(sam)
    inputs = processor(image.open(), input_boxes=[[list(box)]], return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float())
    masks = processor.image_processor.post_process_masks(out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])[0]
    assert ours.shape == (height, width) and ours.dtype == np.bool_
    assert (ours == masks[0, int(out.iou_scores.argmax())].numpy()).all()


def test_a_mask_depends_on_the_box_and_not_on_what_was_asked_before(sam: Path) -> None:
    image, first, second = pictured(1, 80, 60), (5.0, 5.0, 20.0, 20.0), (40.0, 20.0, 79.0, 59.0)
    with segmenter.opened(str(sam), CPU) as segment:
        masks = [segment(image, box) for box in (first, second, first)]
    assert (masks[0] == masks[2]).all() and (masks[0] != masks[1]).any()


def test_its_memory_is_given_back(sam: Path) -> None:
    with segmenter.opened(str(sam), CPU) as segment:
        model = next(cell.cell_contents for cell in segment.__closure__ or () if isinstance(cell.cell_contents, SamModel))
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def other_type(folder: Path, _: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2"}))


def no_json(folder: Path, _: str) -> None:
    (folder / "config.json").write_text("[")


def pickled(folder: Path, _: str) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("break_it", "name", "said"),
    [
        (without, "config.json", "no config.json in"),
        (without, "preprocessor_config.json", "no preprocessor_config.json in"),
        (pickled, "", "no *.safetensors in"),
        (other_type, "", "a sam2 model; give a SAM folder"),
        (no_json, "", "config.json cannot be read; copy the folder again"),
    ],
)
def test_what_is_no_sam_is_refused_before_anything_is_asked(break_it, name: str, said: str, sam: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(sam, broken)
    break_it(broken, name)
    with pytest.raises(ValueError) as refused:
        segmenter.check(str(broken))
    line = str(refused.value)
    assert line.startswith(f"task.segmenter={broken}: ") and said in line and "\n" not in line


@pytest.mark.parametrize("fault", ["missing", "shape", "nan", "cut"])
def test_weights_that_are_damaged_are_refused_by_name(fault: str, sam: Path, tmp_path: Path) -> None:
    broken, file = tmp_path / "broken", tmp_path / "broken/model.safetensors"
    shutil.copytree(sam, broken)
    tensors = load_file(file)
    name = "mask_decoder.iou_token.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    elif fault == "nan":
        tensors[name][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    segmenter.check(str(broken))
    with pytest.raises(ValueError, match=r"task.segmenter=.*copy (it|the folder) again, whole") as refused, segmenter.opened(str(broken), CPU):
        pass
    assert (name in str(refused.value) or fault == "cut") and "\n" not in str(refused.value)


def test_a_name_on_the_hub_that_is_not_here_says_so() -> None:
    with pytest.raises(ValueError, match=r"task.segmenter=nobody/sam: no such folder, nor to be had from the hub"):
        segmenter.check("nobody/sam")
