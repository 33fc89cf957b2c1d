"""What a step computes, counted, not measured: each image and prompt once, and repeated for every completion.

    python benchmarks/flops.py

Floating-point operations by the formulas of `_gpu.Work`, which a test holds against torch's own counter. Repeated, the head runs on every position,
and no completion is longer than another: padding would come on top.
"""

from collections.abc import Mapping
from dataclasses import replace

from _gpu import QWEN2_VL_2B, Size, Work

# The standard workload of the benchmarks on a CPU (`_workloads.STANDARD`).
STANDARD = replace(
    QWEN2_VL_2B,
    name="standard",
    hidden=192,
    mlp=1024,
    layers=4,
    heads=6,
    kv_heads=2,
    vocabulary=8192,
    tower_layers=4,
    tower_width=128,
    tower_heads=4,
    cells=12,
    text_tokens=42,
    prompts=4,
    tokens=64,
)


def counted(size: Size) -> dict[str, tuple[int, int]]:
    """FLOPs of each stage, once and repeated."""
    once = Work(size)
    apart = replace(size, prompts=size.rows, group=1)
    copies = Work(apart)
    unneeded = apart.prompts * (apart.prompt_tokens + 1) * 2 * apart.hidden * apart.vocabulary  # the head on the prompts, too
    scores = (once.scores, copies.scores + unneeded)
    stages = {"encode": (once.encode, copies.encode), "prefill": (once.prefill, copies.prefill), "reference logprobs": scores}
    return stages | {"policy forward and backward": (3 * scores[0], 3 * scores[1])}


def table(stages: Mapping[str, tuple[int, int]], unit: str, flops: float) -> str:
    """As Markdown."""
    lines = [f"| stage | once, {unit} | repeated | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {once / flops:.4g} | {often / flops:.4g} | {often / once:.1f}× |" for name, (once, often) in stages.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{QWEN2_VL_2B.title}\n\n{table(counted(QWEN2_VL_2B), 'TFLOP', 1e12)}\n")
    print(f"{STANDARD.title}\n\n{table(counted(STANDARD), 'GFLOP', 1e9)}")
