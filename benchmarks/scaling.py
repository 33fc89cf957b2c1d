"""How a step grows with the group and with the prompt: rollout, forward and backward, ours beside Hugging Face's, as numbers and as a plot.

    python benchmarks/scaling.py --json benchmarks/results        (the plot goes beside it, as .svg)

The standard model, three turns a case; the group grows at prompts of 512 tokens, the prompt at groups of 8. The peer repeats every prompt and
image G times, and trains 32 rows at a time, so that its logits fit in memory.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _measure as measure
import _plot as plot
import _workloads as workloads
from _ours import Ours
from _peer import Repeated
from _workloads import STANDARD, Workload

ROWS_AT_ONCE = 32
GROUPS = (2, 4, 8, 16, 32)
# Prompt tokens -> an image's cells; the rest is text.
PROMPTS = {64: (4, 6), 128: (8, 11), 256: (12, 18), 512: (16, 29), 1024: (30, 32)}
AT_PROMPT, AT_GROUP = 512, 8
GROWTH = (8, 32)


def workload(prompt: int, group: int) -> Workload:
    """The standard one with prompts of so many tokens and groups of so many completions."""
    height, width = PROMPTS[prompt]
    return replace(STANDARD, name=f"prompt {prompt}, group {group}", cells=(height, width), text_tokens=prompt - height * width, group=group)


def step(one: Workload, repeats: int, *, warm_up: bool = False) -> measure.Figure:
    """Sampling, and forward and backward on what was sampled."""
    ours, peer = Ours(one), Repeated(one, rows_at_once=ROWS_AT_ONCE)
    lengths_PG = workloads.even_lengths(one)

    def peer_step() -> None:
        peer.forward_backward(peer.generate(lengths_PG)[0])

    return measure.figure(lambda: ours.step(lengths_PG), peer_step, repeats, warm_up=warm_up)


def growth(figures: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Times the seconds grow from the one group to the other, on the wall's clock and the processor's."""
    small, large = (figures[workload(AT_PROMPT, group).name] for group in GROWTH)
    clocks = ("seconds", "cpu_seconds")
    return {side: {clock: large[side][clock]["median"] / small[side][clock]["median"] for clock in clocks} for side in ("ours", "peer")}


def draw(figures: Mapping[str, dict[str, Any]], file: Path) -> None:
    """Seconds of one core over the group and over the prompt, both sides: what else the machine does moves them least."""

    def series(cases: Mapping[int, Workload]) -> dict[str, list[tuple[float, float]]]:
        return {side: [(x, figures[case.name][side]["cpu_seconds"]["median"]) for x, case in cases.items()] for side in ("ours", "peer")}

    panels = {
        f"completions a prompt (prompts of {AT_PROMPT} tokens)": series({group: workload(AT_PROMPT, group) for group in GROUPS}),
        f"tokens a prompt (groups of {AT_GROUP})": series({prompt: workload(prompt, AT_GROUP) for prompt in PROMPTS}),
    }
    file.write_text(plot.svg("seconds of one core, a step", panels))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints, writes and draws."""
    options = measure.parser(__doc__, repeats=3).parse_args(arguments)
    measure.pin()
    cases = dict.fromkeys([workload(AT_PROMPT, group) for group in GROUPS] + [workload(prompt, AT_GROUP) for prompt in PROMPTS])
    step(next(iter(cases)), 0, warm_up=True)
    figures = {}
    for one in cases:
        print(one.title, file=sys.stderr, flush=True)
        figures[one.name] = step(one, options.repeats).plain()
    extra = {f"growth from G = {GROWTH[0]} to G = {GROWTH[1]}": growth(figures)}
    result = measure.report("scaling", figures, workload(AT_PROMPT, AT_GROUP).name, extra, options.json)
    if options.json:
        draw(figures, measure.target(options.json, "scaling").with_suffix(".svg"))
    return result


if __name__ == "__main__":
    main()
    sys.exit()
