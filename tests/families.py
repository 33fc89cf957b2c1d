"""Small random models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, and ragged batches of questions for them.

Axes: P prompts, G completions a prompt (ragged), S prompt tokens, I images, R patches of all images together, D values a patch.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from visual_rft.models.processor import Pixels

PATCH, MERGE, FRAMES = 14, 2, 2
WIDTH, LAYERS = 64, 3
VOCABULARY = 200
VISION_START, VISION_END, IMAGE, VIDEO = 190, 191, 192, 193  # ids above these have no token
ALLOWED = range(1, 180)

SPECIAL = {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END, "image_token_id": IMAGE, "video_token_id": VIDEO}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VISION = {"depth": 3, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": FRAMES}


class Family(StrEnum):
    qwen2_vl = "qwen2_vl"
    qwen2_5_vl = "qwen2_5_vl"
    qwen3_vl = "qwen3_vl"


@dataclass(frozen=True)
class RaggedBatch:
    """Prompts, the rows of `pixels` that each one shows, in the order of its placeholders, and completions: as many a prompt as it likes."""

    pixels: Pixels
    tokens_P: list[Tensor]
    images_P: list[tuple[int, ...]]
    completions_PG: list[list[Tensor]]


def build(family: Family, seed: int = 0) -> PreTrainedModel:
    """A model whose every weight is random, large enough that attention, positions and images all move the logprobs."""
    model = _untouched(family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(noise * 0.1 + float(name.endswith("weight")))
    return model.eval()


def _untouched(family: Family) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 3, 4]}
    if family is Family.qwen2_vl:
        vision = {**VISION, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2}
        text = {**TEXT, "rope_parameters": rope}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **SPECIAL))
    vision = {**VISION, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": WIDTH}
    if family is Family.qwen2_5_vl:
        vision |= {"window_size": 2 * MERGE * PATCH, "fullatt_block_indexes": [1]}  # windows of 2×2 cells: most images have several
        text = {**TEXT, "rope_parameters": rope}
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SPECIAL))
    vision |= {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}
    text = {**TEXT, "head_dim": 16, "rope_parameters": rope | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL))


def ragged_batch(seed: int) -> RaggedBatch:
    """Five prompts of different lengths with no, one, two and three images, in random order, with 1 … 5 completions of 1 … 12 tokens.

    Image 0 is shown by three prompts, image 1 by two, image 4 by none; images 1 and 2, which one prompt shows together, have the same size.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, count: int = 1) -> Tensor:
        return torch.randint(low, high + 1, (count,), generator=generator)

    def words(low: int, high: int) -> Tensor:
        return torch.tensor(ALLOWED)[draw(0, len(ALLOWED) - 1, int(draw(low, high)))]

    cells_I2 = draw(1, 4, 10).reshape(5, 2)
    cells_I2[2] = cells_I2[1]
    grid_I3 = torch.cat([torch.ones(5, 1, dtype=torch.int64), cells_I2 * MERGE], dim=1)
    patches_RD = torch.randn(int(grid_I3.prod(-1).sum()), 3 * FRAMES * PATCH**2, generator=generator)

    shown = [(), (0,), (0,), (1, 2), (3, 0, 1)]
    images_P = [shown[i] for i in torch.randperm(5, generator=generator)]
    tokens_P = []
    for images in images_P:
        pieces = [words(1, 6)]
        for image in images:
            placeholders = [IMAGE] * int(cells_I2[image].prod())
            pieces += [torch.tensor([VISION_START, *placeholders, VISION_END]), words(0, 3)]
        tokens_P.append(torch.cat([*pieces, words(1, 6)]))
    counts_P = (torch.randperm(5, generator=generator) + 1).tolist()
    completions_PG = [[words(1, 12) for _ in range(count)] for count in counts_P]
    return RaggedBatch(Pixels(patches_RD, grid_I3), tokens_P, images_P, completions_PG)
