"""The step of one GPU: a Qwen2-VL with random weights, its prompts and images, what each stage must compute at least, and a clock for the device.

Nothing here needs a tokenizer, a download, or more than torch and transformers beside the package.
Axes: P prompts, G completions a prompt, S prompt tokens, T completion tokens, R patches of all images, D values a patch, I images.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from visual_rft.inference import Prepared
from visual_rft.models.processor import Pixels

PATCH, MERGE, FRAMES = 14, 2, 2
SEED = 0


@dataclass(frozen=True)
class Size:
    """A model's numbers and its workload. `special` are the ids of vision start, vision end, image and video; the `speakable` ids stand before
    all special ones. `cells` is the side of a square image in visual tokens."""

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    sections: tuple[int, int, int]
    vocabulary: int
    special: tuple[int, int, int, int]
    speakable: int
    tower_layers: int
    tower_width: int
    tower_heads: int
    cells: int
    text_tokens: int
    prompts: int = 16
    group: int = 8
    tokens: int = 200

    @property
    def visual_tokens(self) -> int:
        return self.cells**2

    @property
    def patches(self) -> int:
        """Of one image."""
        return self.visual_tokens * MERGE**2

    @property
    def prompt_tokens(self) -> int:
        return self.visual_tokens + self.text_tokens

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def title(self) -> str:
        text = f"{self.name}: {self.prompts} × {self.group} × {self.tokens} tokens after prompts of {self.prompt_tokens}"
        return f"{text} ({self.visual_tokens} visual, {self.patches} patches)"


# Qwen2-VL-2B's published configuration.
QWEN2_VL_2B = Size(
    name="random-qwen2-vl-2b",
    hidden=1536,
    mlp=8960,
    layers=28,
    heads=12,
    kv_heads=2,
    sections=(16, 24, 24),
    vocabulary=151936,
    special=(151652, 151653, 151655, 151656),
    speakable=151643,
    tower_layers=32,
    tower_width=1280,
    tower_heads=16,
    cells=30,
    text_tokens=100,
)
TINY = Size(
    name="random-tiny",
    hidden=64,
    mlp=96,
    layers=2,
    heads=4,
    kv_heads=2,
    sections=(2, 3, 3),
    vocabulary=300,
    special=(290, 291, 292, 293),
    speakable=280,
    tower_layers=2,
    tower_width=32,
    tower_heads=2,
    cells=3,
    text_tokens=11,
    prompts=3,
    group=2,
    tokens=6,
)


def config(size: Size) -> Qwen2VLConfig:
    """The model's configuration; its sizes apart, the published one."""
    start, end, image, video = size.special
    text = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(size.sections)},
        "bos_token_id": size.speakable,
        "eos_token_id": size.speakable,
        "pad_token_id": None,
    }
    tower = {"depth": size.tower_layers, "embed_dim": size.tower_width, "hidden_size": size.hidden, "num_heads": size.tower_heads, "mlp_ratio": 4}
    return Qwen2VLConfig(
        text_config=text,
        vision_config={**tower, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": FRAMES},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=True,
    )


def model(size: Size, device: torch.device, dtype: torch.dtype) -> Qwen2VLForConditionalGeneration:
    """Random weights, the same whenever they are made on one device; attention is SDPA until someone changes it."""
    torch.manual_seed(SEED)
    with torch.device(device):
        return Qwen2VLForConditionalGeneration._from_config(config(size), dtype=dtype, attn_implementation="sdpa").eval()


def prepared(size: Size) -> Prepared:
    """Prompts of random words about images of noise, one each, as the workers would hand them over."""
    generator = torch.Generator().manual_seed(SEED)
    start, end, image, _ = size.special

    def words(count: int) -> Tensor:
        return torch.randint(size.speakable, (count,), generator=generator)

    before = size.text_tokens // 4
    shown = torch.tensor([start, *[image] * size.visual_tokens, end])
    tokens = tuple(torch.cat([words(before), shown, words(size.text_tokens - before - 2)]) for _ in range(size.prompts))
    patches_RD = torch.randn(size.prompts * size.patches, 3 * FRAMES * PATCH**2, generator=generator)
    grid_I3 = torch.tensor([[1, size.cells * MERGE, size.cells * MERGE]] * size.prompts)
    return Prepared(tokens, tuple((p,) for p in range(size.prompts)), Pixels(patches_RD, grid_I3))


@dataclass(frozen=True)
class Work:
    """The arithmetic of a step, each image and prompt once: floating-point operations by stage, two for a multiplication with its addition.

    A matrix product is 2 × tokens × weights; attention is 4 × width × (query, key) pairs that see each other, in each layer. The backward pass is
    twice the forward pass. Norms, rotary positions, softmax and sampling are left out, and so is what a side computes twice.
    With `masked` the pairs are counted that a kernel without knowledge of the mask computes.
    """

    size: Size
    masked: bool = False

    @property
    def layer_weights(self) -> int:
        """Of all the language model's layers."""
        s = self.size
        head = s.hidden // s.heads
        return s.layers * (2 * s.hidden**2 + 2 * s.hidden * s.kv_heads * head + 3 * s.hidden * s.mlp)

    @property
    def embed(self) -> int:
        """The patches' first product, which needs no gradient by its input."""
        s = self.size
        return 2 * s.prompts * s.patches * 3 * FRAMES * PATCH**2 * s.tower_width

    @property
    def encode(self) -> int:
        s = self.size
        blocks = 2 * s.patches * s.tower_layers * 12 * s.tower_width**2 + 4 * s.patches**2 * s.tower_width * s.tower_layers
        merged = s.tower_width * MERGE**2
        return self.embed + s.prompts * (blocks + 2 * s.visual_tokens * (merged**2 + merged * s.hidden))

    @property
    def prefill(self) -> int:
        """Without the head on the last token."""
        return self._language(self._own(self.size.prompt_tokens), self.size.prompt_tokens)

    @property
    def scores(self) -> int:
        """Forward pass over the packed groups; a completion's last token is predicted and never read."""
        s = self.size
        read = s.tokens - 1
        pairs = self._own(s.prompt_tokens) + s.group * (read * s.prompt_tokens + self._own(read))
        return self._language(pairs, s.prompt_tokens + s.group * read) + 2 * s.rows * s.tokens * s.hidden * s.vocabulary

    def forward_backward(self, *, train_tower: bool) -> int:
        """Of the policy; a trained tower encodes once more."""
        return 3 * self.scores + (3 * self.encode - self.embed if train_tower else 0)

    def decode_bytes(self, dtype: torch.dtype) -> float:
        """The least that one decoded token a row reads, in the middle of the completions: weights once, prompts once a group, own tokens."""
        s = self.size
        kv = 2 * s.layers * s.kv_heads * (s.hidden // s.heads)
        weights = self.layer_weights + s.hidden * s.vocabulary
        return dtype.itemsize * (weights + kv * (s.prompts * s.prompt_tokens + s.rows * s.tokens / 2))

    def _own(self, tokens: int) -> int:
        return tokens * tokens if self.masked else tokens * (tokens + 1) // 2

    def _language(self, pairs: int, tokens: int) -> int:
        """Layers over the tokens and pairs of one group, for all groups."""
        return self.size.prompts * (2 * tokens * self.layer_weights + 4 * pairs * self.size.hidden * self.size.layers)


class Clock:
    """Seconds of stages, by the device's own events (the wall's clock on a CPU), and the most memory allocated within each. Stages may nest."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.open: list[str] = []
        self.spans: list[tuple[str, object, object]] = []
        self.peaks: dict[str, int] = defaultdict(int)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is begun inside counts to the stage until the device is done with it."""
        self._note_peak()
        self.open.append(name)
        start = self._mark()
        yield
        self.spans.append((name, start, self._mark()))
        self._note_peak()
        self.open.pop()

    def take(self) -> dict[str, float]:
        """Seconds of each stage since the last take; a stage that came several times is summed."""
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds: dict[str, float] = defaultdict(float)
        for name, start, end in self.spans:
            seconds[name] += start.elapsed_time(end) / 1000 if self.on_gpu else end - start  # type: ignore[attr-defined, operator]
        self.spans = []
        return dict(seconds)

    def _mark(self) -> object:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _note_peak(self) -> None:
        """What was allocated since the last note belongs to every stage that is open."""
        if self.on_gpu:
            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.peaks |= {name: max(self.peaks[name], peak) for name in self.open}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest."""
    ordered = sorted(values)
    middle = (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2
    return {"median": middle, "min": ordered[0], "max": ordered[-1]}
