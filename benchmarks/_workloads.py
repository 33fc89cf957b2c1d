"""What is measured: a Qwen2-VL with random weights, its prompts and images, and how many tokens each completion has, by name and without a download.

The same workload has the same weights, prompts, images and lengths wherever it is built.
Axes: P prompts, G completions a prompt, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_rft.miniature import CHAT_TEMPLATE, SPECIAL_TOKENS

PATCH, MERGE = 14, 2
TEMPLATE_WORDS = ["system", "You", "are", "a", "helpful", "assistant.", "user", "assistant"]
TEMPLATE_TOKENS = 15  # of a prompt, the question and the image's own tokens apart
SEED = 0
KL = 0.04  # weight of the KL term where there is one


@dataclass(frozen=True)
class Workload:
    """`cells`: height and width of an image in visual tokens; `text_tokens`: what else is in a prompt, the template included."""

    name: str
    cells: tuple[int, int]
    text_tokens: int
    vocabulary: int
    prompts: int = 4
    group: int = 8
    tokens: int = 64

    @property
    def prompt_tokens(self) -> int:
        return self.cells[0] * self.cells[1] + self.text_tokens

    @property
    def rows(self) -> int:
        """Completions a step."""
        return self.prompts * self.group

    @property
    def title(self) -> str:
        text = f"{self.name}: {self.prompts} × {self.group} × {self.tokens} tokens after prompts of {self.prompt_tokens}"
        return f"{text} ({self.cells[0] * self.cells[1]} visual), vocabulary {self.vocabulary}"


STANDARD = Workload("standard", cells=(12, 12), text_tokens=42, vocabulary=8192)
SMALL = Workload("small", cells=(7, 7), text_tokens=70, vocabulary=640)
TINY = Workload("tiny", cells=(2, 3), text_tokens=20, vocabulary=640, prompts=2, group=3, tokens=5)


def tokenizer(workload: Workload) -> PreTrainedTokenizerFast:
    """One word, one token: special tokens, the words of the chat template, and w0, w1, … up to the vocabulary's size."""
    words = [*SPECIAL_TOKENS, *TEMPLATE_WORDS]
    words += [f"w{i}" for i in range(workload.vocabulary - len(words))]
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=level,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def image_processor(workload: Workload) -> Qwen2VLImageProcessorPil:
    """It leaves the workload's images their size."""
    area = workload.cells[0] * workload.cells[1] * (PATCH * MERGE) ** 2
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": area, "longest_edge": area})


def model(workload: Workload, words: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """Hidden 192, 4 layers, 6/2 heads, MLP 1024; a tower 128 wide and 4 deep; float32, SDPA."""
    ids = {token: words.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": workload.vocabulary,
        "hidden_size": 192,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 4, "patch_size": PATCH}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={**vision, "spatial_merge_size": MERGE, "temporal_patch_size": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(SEED)
    return Qwen2VLForConditionalGeneration(config).float()


def save(workload: Workload, folder: Path) -> Path:
    """The model as a Hugging Face folder, for a side that loads its reference from one."""
    model(workload, tokenizer(workload)).save_pretrained(folder)
    return folder


def images(workload: Workload) -> list[Image.Image]:
    """One image of noise a prompt."""
    rng = np.random.default_rng(SEED)
    height, width = (side * PATCH * MERGE for side in workload.cells)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(workload.prompts)]


def questions(workload: Workload) -> list[str]:
    """Random words, as many as fill the prompt."""
    rng = np.random.default_rng(SEED + 1)
    count = workload.text_tokens - TEMPLATE_TOKENS
    return [" ".join(f"w{i}" for i in rng.integers(0, 500, count)) for _ in range(workload.prompts)]


def uneven_lengths(workload: Workload) -> list[list[int]]:
    """lengths_PG, uniform from an eighth of the workload's tokens to all of them."""
    rng = np.random.default_rng(SEED + 2)
    shape = (workload.prompts, workload.group)
    return [[int(n) for n in row] for row in rng.integers(max(1, workload.tokens // 8), workload.tokens + 1, shape)]


def even_lengths(workload: Workload) -> list[list[int]]:
    """lengths_PG, all of them the workload's tokens."""
    return [[workload.tokens] * workload.group for _ in range(workload.prompts)]


def completions(workload: Workload, lengths_PG: list[list[int]]) -> list[list[torch.Tensor]]:
    """Random completions_PG (tokens_T) of words alone: what a rollout of these lengths could have given."""
    generator = torch.Generator().manual_seed(SEED)
    first = len(SPECIAL_TOKENS)
    return [[torch.randint(first, workload.vocabulary, (n,), generator=generator) for n in row] for row in lengths_PG]


def advantages(workload: Workload) -> torch.Tensor:
    """advantages_B with some spread, none of them zero."""
    return torch.randn(workload.rows, generator=torch.Generator().manual_seed(SEED))


def reward(row: int) -> float:
    """What completion `row` of a step earns, whatever it says: it costs nothing, and no group is of one mind."""
    return (row * 7 % 5) / 4
