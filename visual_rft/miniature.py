"""Make the embedded base model: a Qwen2-VL of 3 M parameters, taught from scratch to find digits and to draw loose boxes.

    python -m visual_rft.miniature out=some/folder

Its labels are *systematically* loose: each side of each box lies 5–30 % of the box's size too far out. So the model knows the
objects and the answer's form, and few images can teach it how *we* draw the box: the situation the method is for.
Axes: P scenes (one question each) a step.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator, default_rng
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.sources.digits import CANVAS, CATEGORIES, Split, scenes
from visual_rft.supervised import supervised_loss
from visual_rft.tasks.detection import QUESTION, example, render, thinking
from visual_rft.vocabulary import Box, Detection, Example

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
SPECIAL_TOKENS += ["<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

NUMBERS = 1001  # coordinates, one token each
CONFIDENCES = (0.55, 0.65, 0.75, 0.85, 0.95)  # spread, so that GRPO has something to choose from


@dataclass
class Recipe:
    """The recipe's numbers; everything else is code."""

    out: str = "outputs/miniature"
    seed: int = 0
    steps: int = 2000
    prompts_per_step: int = 64
    learning_rate: float = 1.5e-3
    absent: float = 0.15  # share of questions about a category that is not there
    looseness: tuple[float, float] = (0.05, 0.30)
    threads: int = 1


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the contract: a coordinate is one token, and so is every fixed phrase of up to 48 characters."""
    bpe = Tokenizer(models.BPE())
    name = rf" ?\b(?:{'|'.join(CATEGORIES)})\b"
    split = pre_tokenizers.Split(Regex(rf"\d{{1,4}}|<[^>\d]*>|{name}|(?:(?!{name})[^\d<])+|<"), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1664,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=48,
        show_progress=False,
    )
    bpe.train_from_iterator([str(n) for n in range(NUMBERS)] * 100 + _phrases() * 100, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def _phrases() -> list[str]:
    """What the tokenizer is trained on: the contract in the pieces that should become one token each; no merge crosses a piece's end."""
    before, after = QUESTION.split(" {category}")
    places = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right")]
    said = render([Detection((1, 2, 3, 4), c) for c in CONFIDENCES], " ")
    chat = ["system\nYou are a helpful assistant.", "user\n", "assistant\n", "\n"]
    return [*(f" {name}" for name in CATEGORIES), *places, *chat, before, after.format(), said, ": ", ", ", ". ", ".", "none", " No Objects "]


def number_rows(count: int, width: int) -> torch.Tensor:
    """[count, width] embeddings of the numbers 0 … count − 1 to begin with: waves of many lengths, so that near numbers are near."""
    waves = torch.logspace(math.log10(0.5), math.log10(60), width // 2) * 2 * math.pi / (count - 1)
    phases = torch.arange(count)[:, None] * waves
    return 0.02 * math.sqrt(2) * torch.cat([phases.cos(), phases.sin()], dim=1)


def model_config(vocabulary: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """Qwen2-VL-2B in small numbers: 64×64 pixels are 8×8 patches, 16 visual tokens."""
    ids = {token: vocabulary.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": math.ceil(len(vocabulary) / 64) * 64,
        "hidden_size": 192,
        "intermediate_size": 448,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        # A 4×4 grid of cells: with the family's theta of a million neighbouring cells would look alike to the attention.
        "rope_parameters": {"rope_type": "default", "rope_theta": 4.0, "mrope_section": [2, 7, 7]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 3, "patch_size": 8}
    return Qwen2VLConfig(
        text_config=text,
        vision_config={**vision, "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(seed: int) -> tuple[Policy, Processor]:
    """The untrained miniature and its processor."""
    torch.manual_seed(seed)
    words = tokenizer()
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": CANVAS**2, "longest_edge": CANVAS**2})
    processor = Processor(words, images)
    model = Qwen2VLForConditionalGeneration(model_config(words))
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        rows[words.convert_tokens_to_ids([str(n) for n in range(NUMBERS)])] = number_rows(NUMBERS, rows.shape[1])
    return Policy(model, processor.banned_ids), processor


def lesson(step: int, recipe: Recipe) -> tuple[list[Example], list[str]]:
    """The questions of one step, on scenes never seen before, and the loose answers to learn."""
    rng = default_rng([recipe.seed, step])
    examples, answers = [], []
    for image in scenes(Split.BASE, recipe.prompts_per_step, seed=recipe.seed, start=step * recipe.prompts_per_step):
        shown = sorted({a.category for a in image.annotations})
        asked = sorted(set(CATEGORIES) - set(shown)) if rng.random() < recipe.absent else shown
        question = example(image, str(rng.choice(asked)))
        boxes = sorted(loosen(box, recipe.looseness, rng) for box in question.truth.boxes)
        examples.append(question)
        answers.append(render([Detection(box, float(rng.choice(CONFIDENCES))) for box in boxes], thinking(question.category, boxes)))
    return examples, answers


def loosen(box: Box, looseness: tuple[float, float], rng: Generator) -> Box:
    """Each side of a norm1000 box moved outward by its own share of the box's width or height, up to the image's edge."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = rng.uniform(*looseness, 4)
    corners = (x1 - left * (x2 - x1), y1 - top * (y2 - y1), x2 + right * (x2 - x1), y2 + bottom * (y2 - y1))
    a, b, c, d = (float(v) for v in np.clip(np.round(corners), 0, 1000))
    return a, b, c, d


def teach(policy: Policy, processor: Processor, recipe: Recipe) -> list[dict[str, float]]:
    """Supervised training from scratch: AdamW, warm-up over 100 steps, cosine to zero. Returns one record every 20 steps."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    curve, started = [], time.perf_counter()
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warm
        loss = supervised_loss(policy, processor, *lesson(step, recipe))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0 or step == recipe.steps - 1:
            curve.append({"step": step, "loss": loss.item(), "seconds": round(time.perf_counter() - started, 1)})
            print(json.dumps(curve[-1]), flush=True)
    return curve
