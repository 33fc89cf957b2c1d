"""A step of Qwen2-VL-2B on one GPU, stage by stage: seconds by device events, the share of the card's peak, and memory; the trainer's own code.

    python benchmarks/gpu_step.py --json FILE              16 prompts of 1000 tokens (900 visual), 8 completions of 200 tokens each
    python benchmarks/gpu_step.py --json FILE --peer       and Hugging Face's generate and repeated padded forward beside it, by turns
    python benchmarks/gpu_step.py --tiny --device cpu      the same code at a size for a CPU, whose numbers say nothing

Weights, words and images are random; nothing is loaded or tokenized, and preparing images is not counted: workers do it ahead of the step.
bfloat16 with float32 beside it in the optimizer, no checkpointing. `encode` brings the patches to the device, too. `decode` is the rollout without
`prefill`; `decode on the device` repeats its last step without asking for the tokens. `reference` is zero without KL.
The peer repeats prompts and images for every completion, and takes the same optimizer's steps.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from _gpu import QWEN2_VL_2B, TINY, Size, Work, spread
from _gpu_sides import Ours, Peer
from rich.console import Console
from rich.table import Table

from visual_rft.hardware import Attention, HardwareOptions, Precision

PEAK_FLOPS, PEAK_BYTES = 790e12, 4.3e12  # a second, measured on an H200: bfloat16 products of random matrices; read and written by a copy
VARIANTS = {"step": False, "step with KL": True}


def floors(size: Size, dtype: torch.dtype, *, train_tower: bool, kl: bool) -> dict[str, float]:
    """The least seconds of each stage on the card that the peak numbers are of, each image and prompt once."""
    work = Work(size)
    token = work.decode_bytes(dtype) / PEAK_BYTES
    stages = {
        "encode": work.encode / PEAK_FLOPS,
        "prefill": work.prefill / PEAK_FLOPS,
        "decode": token * (size.tokens - 1),
        **({"reference": work.scores / PEAK_FLOPS} if kl else {}),
        "forward and backward": work.forward_backward(train_tower=train_tower) / PEAK_FLOPS,
    }
    sums = {"vision and prefill": stages["encode"] + stages["prefill"], "step": sum(stages.values())}
    return {**stages, **sums, "decode a token": token, "decode on the device": token}


def measured(ours: Ours, steps: int) -> dict[str, dict[str, float]]:
    """Seconds of every stage, their spread over the steps; the first, which chooses kernels and captures graphs, is not counted."""
    ours.step()
    ours.clock.peaks.clear()
    taken = [ours.step() for _ in range(steps)]
    found = {name: spread(seconds[name] for seconds in taken) for name in taken[0]}
    return found | {"decode on the device": spread(ours.decode_step() for _ in range(steps))}


def variant(ours: Ours, steps: int, least: dict[str, float], title: str) -> dict[str, Any]:
    """What a step takes as it is set now; `share_of_peak` is MFU where a stage computes, and of the memory's bandwidth where it decodes."""
    stages = measured(ours, steps)
    found = {
        "stages": stages,
        "floors": least,
        "share_of_peak": {stage: floor / stages[stage]["median"] for stage, floor in least.items()},
        "tokens_per_second": ours.size.rows / stages["decode a token"]["median"],
        "peak_gb": {stage: peak / 1e9 for stage, peak in ours.clock.peaks.items()},
        "logprob_gap": ours.gap,
    }
    show(title, found)
    print(f"decode: {found['tokens_per_second']:.0f} tokens/s at {ours.size.rows} sequences")
    print(f"rollout and trainer differ by {ours.gap:.2g} nats at most\n")
    return found


def show(title: str, found: dict[str, Any]) -> None:
    """A table of the stages."""
    table = Table(title=title, title_justify="left")
    for column in ("stage", "ms", "min–max", "floor ms", "of the peak", "peak GB"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, seconds in found["stages"].items():
        low, middle, high = (f"{seconds[key] * 1000:.2f}" for key in ("min", "median", "max"))
        floor = [f"{found['floors'][stage] * 1000:.2f}", f"{found['share_of_peak'][stage]:.0%}"] if stage in found["floors"] else ["", ""]
        memory = found["peak_gb"].get(stage)
        table.add_row(stage, middle, f"{low}–{high}", *floor, f"{memory:.1f}" if memory else "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def by_turns(ours: Ours, peer: Peer, steps: int) -> dict[str, Any]:
    """Whole steps of both, each once to warm up and then by turns: how many times fewer seconds ours take."""
    taken = [(ours.step(), peer.step()) for _ in range(steps + 1)][1:]
    ratio = spread(theirs["step"] / mine["step"] for mine, theirs in taken)
    print("whole step beside Hugging Face: {median:.2f} times fewer seconds ({min:.2f}–{max:.2f})".format(**ratio))
    sides = ({stage: spread(turn[i][stage] for turn in taken) for stage in taken[0][i]} for i in (0, 1))
    ours_side, peer_side = ({"seconds": stages["step"], "stages": stages} for stages in sides)
    return {"ratio": ratio, "ours": ours_side, "peer": peer_side}


def machine(device: str) -> dict[str, Any]:
    """What it was measured on, with what, and when."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def file_name(size: Size, here: dict[str, Any]) -> str:
    """<benchmark>_<model>_<hardware>_<date>.json"""
    return f"gpu_step_{size.name}_{here['device'].lower().replace(' ', '-')}_{here['date']}.json"


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there; into a folder it goes by model, hardware and date")
    parser.add_argument("--peer", action="store_true", help="Hugging Face beside it")
    parser.add_argument("--peer-rows", type=int, default=8, help="rows of the peer's that pass together (8)")
    parser.add_argument("--steps", type=int, default=5, help="steps measured of each kind (5)")
    parser.add_argument("--train-tower", action="store_true", help="the vision tower is trained, too")
    parser.add_argument("--attention", type=Attention, help=f"of {', '.join(Attention)} (varlen; sdpa on a CPU)")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192, help="tokens that pass together (8192)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (cuda)")
    parser.add_argument("--tiny", action="store_true", help="a size for a CPU")
    return parser


def hardware(chosen: argparse.Namespace, size: Size) -> HardwareOptions:
    """As conf/hardware has it for such a device."""
    on_cpu = chosen.device == "cpu"
    return HardwareOptions(
        device=chosen.device,
        threads=1 if on_cpu else 4,
        precision=Precision.float32 if on_cpu else Precision.bfloat16,
        attention=chosen.attention or (Attention.sdpa if on_cpu else Attention.varlen),
        tokens_per_micro_batch=chosen.tokens_per_micro_batch,
        decoded_together=size.rows,
    )


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes; the headline is the step without KL."""
    chosen = arguments().parse_args(given)
    size = TINY if chosen.tiny else QWEN2_VL_2B
    options = hardware(chosen, size)
    ours = Ours(size, options, train_tower=chosen.train_tower)
    title = size.title + (", tower trained" if chosen.train_tower else "")
    print(title)
    variants, figures = {}, {}
    for name, kl in VARIANTS.items():
        ours.set_kl(on=kl)
        least = floors(size, next(ours.policy.parameters()).dtype, train_tower=chosen.train_tower, kl=kl)
        variants[name] = variant(ours, chosen.steps, least, name)
    if chosen.peer:  # last, so that no peak of memory above is the peer's
        peer = Peer(size, ours, rows_at_once=chosen.peer_rows, train_tower=chosen.train_tower)
        for name, kl in VARIANTS.items():
            for side in (ours, peer):
                side.set_kl(on=kl)
            figures[name] = by_turns(ours, peer, chosen.steps)
    alone = {"ratio": None, "ours": {"seconds": variants["step"]["stages"]["step"]}, "peer": None}
    settings = {"workload": title, "attention": options.attention.value, "tokens_per_micro_batch": options.tokens_per_micro_batch}
    result = {**figures.get("step", alone), "machine": machine(chosen.device), **settings, "variants": variants, "figures": figures}
    if chosen.json:
        file = chosen.json / file_name(size, result["machine"]) if chosen.json.is_dir() else chosen.json
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {file}")
    return result


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"not measured: {error}", file=sys.stderr)
        sys.exit(2)
