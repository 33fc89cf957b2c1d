"""Masks of boxes by SAM (Segment Anything, Kirillov et al. 2023, arXiv 2304.02643), without torchvision. Loading never runs code from its folder:
safetensors only, no remote code.

Axes: M masks SAM proposes for a box, H rows, W columns of pixels.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors import SafetensorError

from visual_rft.frames import Box
from visual_rft.images import StoredImage
from visual_rft.models import hub

if TYPE_CHECKING:  # imported where needed: few runs do
    from transformers import SamModel
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

Bools = npt.NDArray[np.bool_]
GIVE = "give a SAM folder, or its name on the hub, such as facebook/sam-vit-huge"


def check(path: str) -> None:
    """Raises ValueError when `path` is no SAM: neither its folder nor its name on the hub. Of the folder no more than the configuration is read."""
    folder = _folder(path)
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"task.segmenter={path}: {folder / 'config.json'} cannot be read; copy the folder again, whole") from error
    if model_type != "sam":
        raise ValueError(f"task.segmenter={path}: a {model_type} model; {GIVE}")
    for needed in ("preprocessor_config.json", "*.safetensors"):
        if not any(folder.glob(needed)):
            raise ValueError(f"task.segmenter={path}: no {needed} in {folder}; copy the folder again, whole")


@contextmanager
def opened(path: str, device: torch.device) -> Iterator[Callable[[StoredImage, Box], Bools]]:
    """A SAM in float32 on a device, as a function from an image and a box in its pixels to the mask (H, W) of what is in the box; its memory is free
    again after it. Raises ValueError when the folder is absent, damaged or incomplete."""
    model, images = _load(path, device)
    try:
        yield lambda image, box: segment(model, images, image, box)
    finally:
        model.to("meta")
        if device.type == "cuda":
            torch.cuda.empty_cache()


@torch.no_grad()
def segment(model: "SamModel", images: "SamImageProcessorPil", image: StoredImage, box: Box) -> Bools:
    """Of the masks that SAM proposes for a box (x1, y1, x2, y2) in pixels of the image, the one it thinks best; (H, W)."""
    shown = images(image.open(), return_tensors="pt")
    (height, width), (rows, columns) = (shown[key][0].tolist() for key in ("original_sizes", "reshaped_input_sizes"))
    x1, y1, x2, y2 = box
    scaled_4 = torch.tensor([x1 * columns / width, y1 * rows / height, x2 * columns / width, y2 * rows / height])
    out = model(pixel_values=shown["pixel_values"].to(model.device), input_boxes=scaled_4[None, None].to(model.device), multimask_output=True)
    best = int(out.iou_scores[0, 0].argmax())
    (masks_11HW,) = images.post_process_masks(out.pred_masks[:, :, best : best + 1].cpu(), [(height, width)], [(rows, columns)])
    return np.asarray(masks_11HW[0, 0].numpy(), dtype=np.bool_)


def _load(path: str, device: torch.device) -> "tuple[SamModel, SamImageProcessorPil]":
    from transformers import SamModel
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    folder = _folder(path)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        said_of_weights = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # they are refused below, by name
        safely = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
        model, said = SamModel.from_pretrained(folder, dtype=torch.float32, **safely, **said_of_weights)
        images = SamImageProcessorPil.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"task.segmenter={path}: {folder} is no readable SAM folder ({reason}); copy it again, whole") from error
    broken = sorted({*said["missing_keys"], *(name for name, *_ in said["mismatched_keys"])})
    if broken:
        raise ValueError(f"task.segmenter={path}: {len(broken)} tensors are missing or of another shape, {broken[0]} first; copy it again, whole")
    spoiled = next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)
    if spoiled:
        raise ValueError(f"task.segmenter={path}: the tensor {spoiled} holds NaN or infinity; copy it again, whole")
    return model.eval().requires_grad_(False).to(device), images


def _folder(path: str) -> Path:
    found = Path(path).expanduser()
    if (found / "config.json").is_file():
        return found
    if not found.exists() and hub.NAME.fullmatch(path):
        return hub.snapshot(path, key="task.segmenter")
    raise ValueError(f"task.segmenter={path}: no config.json in {found}; {GIVE}")
