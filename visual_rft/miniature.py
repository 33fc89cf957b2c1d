"""Make the embedded base model: a Qwen2-VL of 3 M parameters, taught from scratch to find, name and point at digits, with bad habits.

    python -m visual_rft.miniature hydra.run.dir=some/empty/folder

Its labels are *systematically* wrong: each side of each box lies 5–30 % of the box's size too far out, and four digits are mostly called by
the name of another. So the model knows the objects and the answer's form, and few images can teach it how *we* draw the box and which name *we*
use: the situation the method is for.
Axes: P scenes (one question each) a step.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy, rms_norm
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_rft.config import Job, start
from visual_rft.frames import CONTRACT
from visual_rft.images import AnnotatedImage
from visual_rft.inference import ask, prepare
from visual_rft.lessons import CONFIDENCES, Recipe, lesson
from visual_rft.models import loading
from visual_rft.models.policy import Policy
from visual_rft.models.processor import Processor
from visual_rft.sources.digits import CANVAS, CATEGORIES, Split, scenes
from visual_rft.tasks.wording import (
    Wording,
    classification_question,
    completion,
    detection_answer,
    detection_question,
    grounding_answer,
    grounding_question,
)
from visual_rft.vocabulary import Detection, Example

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
SPECIAL_TOKENS += ["<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Curve = list[dict[str, float | str]]

CELLS = 4  # visual tokens a side of a scene
SPREAD = 0.06  # standard deviation of the first weights; at the family's 0.02 a model this narrow attends to everything alike for long
NUMBERS = 1001  # coordinates, one token each


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the contract: a coordinate is one token, and so is every fixed phrase of up to 48 characters."""
    bpe = Tokenizer(models.BPE())
    name = rf" ?\b(?:{'|'.join(CATEGORIES)})\b"
    split = pre_tokenizers.Split(Regex(rf"\d{{1,4}}|<[^>\d]*>|{name}|(?:(?!{name})[^\d<])+|<"), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2560,
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
    pointing = grounding_question("{instruction}", Wording.terse_1, CONTRACT).split("{instruction}")
    questions = [detection_question("one", Wording.terse_1, CONTRACT), classification_question("digit", Wording.terse_1, CONTRACT), *pointing]
    asked = {instruction.text for image in scenes(Split.BASE, 200, seed=0) for instruction in image.instructions}
    places = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right")]
    said = completion(" ", detection_answer([Detection((1, 2, 3, 4), c) for c in CONFIDENCES])) + completion(" ", grounding_answer((1, 2, 3, 4)))
    chat = ["system\nYou are a helpful assistant.", "user\n", "assistant\n", "\n"]
    return [*(f" {name}" for name in CATEGORIES), *places, *chat, *questions, *asked, said, ": ", ", ", ". ", ".", "none", " No Objects "]


def number_rows(count: int, width: int) -> torch.Tensor:
    """[count, width] embeddings of the numbers 0 … count − 1 to begin with: waves of many lengths, so that near numbers are near."""
    waves = torch.logspace(math.log10(0.5), math.log10(60), width // 2) * 2 * math.pi / (count - 1)
    phases = torch.arange(count)[:, None] * waves
    return SPREAD * math.sqrt(2) * torch.cat([phases.cos(), phases.sin()], dim=1)


def model_config(vocabulary: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """Qwen2-VL-2B in small numbers: 64×64 pixels are 8×8 patches, 16 visual tokens."""
    ids = {token: vocabulary.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "initializer_range": SPREAD,
        "vocab_size": math.ceil(len(vocabulary) / 64) * 64,
        "hidden_size": 192,
        "intermediate_size": 448,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        # A grid of 4×4 cells: rows and columns get fast waves each (0.65, 0.42 and 0.27, 0.18, … radians a cell), slow ones are left to content.
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [1, 2, 13]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {"depth": 4, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 3, "patch_size": 8}
    return Qwen2VLConfig(
        text_config=text,
        vision_config={**vision, "initializer_range": SPREAD, "spatial_merge_size": 2, "temporal_patch_size": 2},
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
    return Policy(model, processor.allowed_ids), processor


def open_eyes(policy: Policy, processor: Processor, recipe: Recipe) -> Curve:
    """The tower alone, since every VLM's comes pretrained: each cell names the digit that covers it, and a head thrown away later says its box.

    A cell names a digit by pointing along the embedding of its word, so that the language model finds what it is asked for by content.
    """
    torch.manual_seed(recipe.seed)
    corners_of = torch.nn.Linear(policy.model.config.get_text_config().hidden_size, 4)
    sharpness = torch.nn.Parameter(torch.ones(()))
    words_NH = policy.model.get_input_embeddings()(torch.cat([processor.encode(f" {name}")[:1] for name in (*CATEGORIES, "none")])).detach()

    def loss(step: int) -> torch.Tensor:
        images = scenes(Split.BASE, recipe.scenes_per_step, seed=recipe.seed + 1, start=step * recipe.scenes_per_step)
        features_PCH = torch.cat(policy.encode(processor.pixels([image.image for image in images])))  # one level: Qwen2-VL has no other
        classes_PC, boxes_PC4 = (torch.stack(t) for t in zip(*(cell_truth(image) for image in images), strict=True))
        names_PCN = sharpness * rms_norm(features_PCH, features_PCH.shape[-1:]) @ words_NH.T
        covered = classes_PC < len(CATEGORIES)
        wrong = (corners_of(features_PCH) - boxes_PC4)[covered].abs().mean()
        return cross_entropy(names_PCN.flatten(0, 1), classes_PC.flatten()) + 5 * wrong

    parameters = [*policy.model.model.visual.parameters(), *corners_of.parameters(), sharpness]
    return descend(loss, parameters, steps=recipe.tower_steps, learning_rate=recipe.tower_learning_rate, name="tower")


def cell_truth(image: AnnotatedImage) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of the 4×4 cells of a scene: the class of the digit that covers it (10: none), and that digit's corners in 0..1."""
    classes, boxes = torch.full((CELLS, CELLS), len(CATEGORIES)), torch.zeros(CELLS, CELLS, 4)
    side = CANVAS // CELLS
    for annotation in image.annotations:
        x, y, w, h = annotation.bbox_xywh
        for row, column in np.ndindex(CELLS, CELLS):
            inside_x = min(x + w, side * (column + 1)) - max(x, side * column)
            inside_y = min(y + h, side * (row + 1)) - max(y, side * row)
            if min(inside_x, inside_y) > side / 3:
                classes[row, column] = CATEGORIES.index(annotation.category)
                boxes[row, column] = torch.tensor([x, y, x + w, y + h]) / CANVAS
    return classes.flatten(), boxes.flatten(0, 1)


def teach(policy: Policy, processor: Processor, recipe: Recipe) -> Curve:
    """Everything, by supervised training on the loose answers."""

    def loss(step: int) -> torch.Tensor:
        return answers_loss(policy, processor, *lesson(step, recipe))

    return descend(loss, list(policy.parameters()), steps=recipe.steps, learning_rate=recipe.learning_rate, name="answers")


def answers_loss(policy: Policy, processor: Processor, examples: Sequence[Example], completions: Sequence[str]) -> torch.Tensor:
    """Mean negative logprob of the completions' tokens, end token included; completion i answers example i."""
    asked = ask(policy, prepare(processor, examples))
    scores = policy(asked.prompts, policy.encode(asked.pixels), [[processor.encode(text)] for text in completions], 1.0)
    return -torch.where(scores.mask_BT, scores.logprobs_BT, 0.0).sum() / scores.mask_BT.sum()


def descend(loss: Callable[[int], torch.Tensor], parameters: list[torch.nn.Parameter], *, steps: int, learning_rate: float, name: str) -> Curve:
    """AdamW with a warm-up of 100 steps and a cosine to zero. Returns one record every 20 steps."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.05)
    curve: Curve = []
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 0 or step == steps - 1:
            curve.append({"part": name, "step": step, "loss": round(value.item(), 4), "seconds": round(time.perf_counter() - started, 1)})
            print(json.dumps(curve[-1]), file=sys.stderr, flush=True)
    return curve


def run(job: Job[Recipe]) -> None:
    """Makes the checkpoint and its curve in the run folder."""
    if any(job.folder.iterdir()):
        raise ValueError(f"{job.folder} has something in it; choose another hydra.run.dir")
    recipe = job.config
    torch.set_num_threads(recipe.threads)
    policy, processor = build(recipe.seed)
    curve = open_eyes(policy, processor, recipe) + teach(policy, processor, recipe)
    loading.save(policy.to(torch.bfloat16), processor, job.folder)  # half the bytes; the weights are rounded once, here
    (job.folder / "curve.jsonl").write_text("".join(json.dumps(record) + "\n" for record in curve))


def main(argv: Sequence[str] | None = None) -> int:
    """The entry; returns the exit code."""
    return start(Recipe, "miniature", run, argv)


if __name__ == "__main__":
    sys.exit(main())
