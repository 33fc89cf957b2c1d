"""What a run on Qwen2-VL would take, estimated and not measured: the arithmetic of `_gpu.Work` at an assumed share of a card's data sheet.

    python benchmarks/hours.py

An A100 of 80 GB, since the paper says no more of its cards than that they were eight. Every question shows a photograph of 640 × 480, and every
completion but a Yes or No has 200 tokens. Left out: preparing images, rewards, saving, ranks that wait for each other, the layers that a checkpoint
computes again, loading and warming up. A test question encodes an image of its own; where questions that stand beside each other share one, that is
too much.
"""

from dataclasses import replace

import torch
from _gpu import QWEN2_VL_2B, Size, Work

FLOPS, BYTES = 312e12, 2.0e12  # a second, of an A100 of 80 GB: bfloat16, and its memory; NVIDIA's data sheet
COMPUTED, READ = 0.3, 0.4  # of them, what is assumed to be reached
TOGETHER = 128  # test questions that are decoded beside each other (hardware.decoded_together)
LABEL_TOKENS, WORD_TOKENS = 60, 2  # of a supervised answer; of a Yes or No

# 640 × 480 is 391 visual tokens; the questions of `full_1` have up to 580 characters, counted as 145 tokens; the template comes on top.
SIZE_2B = replace(QWEN2_VL_2B, name="2b", cells=20, text_tokens=200)
SIZE_7B = replace(SIZE_2B, name="7b", hidden=3584, mlp=18944, heads=28, kv_heads=4, vocabulary=152064, group=4)
SIZES = {size.name: size for size in (SIZE_2B, SIZE_7B)}


def grpo(size: Size, steps: int, gpus: int) -> float:
    """Seconds of training with a reference, the tower trained: images go through it for the rollout, the reference and the gradient."""
    own = Work(replace(size, prompts=size.prompts // gpus))
    flops = 2 * own.encode + own.prefill + own.scores + own.forward_backward(train_tower=True)
    return steps * (flops / (COMPUTED * FLOPS) + _decode(own))


def supervised(size: Size, steps: int, gpus: int) -> float:
    """Seconds of supervised training on as many prompts."""
    own = Work(replace(size, prompts=size.prompts // gpus, group=1, tokens=LABEL_TOKENS))
    return steps * own.forward_backward(train_tower=True) / (COMPUTED * FLOPS)


def asked(size: Size, questions: int, gpus: int, tokens: int | None = None) -> float:
    """Seconds for answers to so many questions, one each; `tokens` is their length, by default that of a completion."""
    batch = Work(replace(size, prompts=TOGETHER, group=1, tokens=tokens or size.tokens))
    return questions / TOGETHER / gpus * ((batch.encode + batch.prefill) / (COMPUTED * FLOPS) + _decode(batch))


def _decode(work: Work) -> float:
    return (work.size.tokens - 1) * work.decode_bytes(torch.bfloat16) / (READ * BYTES)


if __name__ == "__main__":
    for size in SIZES.values():
        for gpus in (1, 8):
            step, label, questions = grpo(size, 1, gpus), supervised(size, 1, gpus), asked(size, 1000, gpus)
            print(f"{size.name}, {gpus} GPU: step {step:.2f} s, supervised {label:.2f} s; 1,000 questions {questions:.0f} s", end="; ")
            print(f"1,000 of Yes or No {asked(size, 1000, gpus, WORD_TOKENS):.0f} s")
