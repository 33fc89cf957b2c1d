"""A step that CUDA replays: captured once for each shape of its buffers, launched as one thing from then on."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Replays:
    """A step without arguments on buffers that stay where they are; `state` is what it changes of them, put back after it was tried.

    `key` says which shapes it works on: a graph is captured for each. Whatever a graph has read stays in use, so the weights must stay in place too.
    """

    def __init__(self, state: Sequence[Tensor], key: Callable[[], tuple[int, ...]]) -> None:
        self.state, self.key = state, key
        self.pool = torch.cuda.graph_pool_handle()  # of all graphs: one replays at a time, and its result is read before the next
        self.graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, step: Callable[[], Tensor]) -> Tensor:
        key = self.key()
        if key not in self.graphs:
            self.graphs[key] = self._capture(step)
        graph, result = self.graphs[key]
        graph.replay()
        return result

    def _capture(self, step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        before = [tensor.clone() for tensor in self.state]
        # Every row writes to a place of its own: a deterministic write, which sorts the places first, would give the same and take longer.
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries choose their kernels and workspaces in the first calls, which a graph may not hold
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = step()
        torch.set_deterministic_debug_mode(mode)
        for tensor, was in zip(self.state, before, strict=True):
            tensor.copy_(was)
        return graph, result
