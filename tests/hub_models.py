"""The numbers of published models, and of any like them: what the hub's config.json says, and which tensors it lists.

Every key and number is that of the published config.json.
"""

from dataclasses import dataclass
from typing import Any

from families import Family

SPECIAL = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"]
SPECIAL += ["vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]


@dataclass(frozen=True)
class Vision:
    depth: int = 32
    width: int = 1280
    heads: int = 16
    intermediate: int = 5120
    marked: tuple[int, ...] = ()  # blocks that attend to whole images (2.5), or whose output goes deep (3)
    window: int = 112
    places: int = 2304


@dataclass(frozen=True)
class Numbers:
    family: Family
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision: Vision
    first_special: int = 151643
    head_dim: int = 128
    sections: tuple[int, int, int] = (16, 24, 24)
    theta: float = 1e6
    positions: int = 32768

    @property
    def ids(self) -> dict[str, int]:
        return {name: self.first_special + i for i, name in enumerate(SPECIAL)}

    @property
    def patch(self) -> int:
        return 16 if self.family is Family.qwen3_vl else 14


_TOWER_2_5 = Vision(intermediate=3420, marked=(7, 15, 23, 31))
_TOWER_3 = Vision(depth=24, width=1024, intermediate=4096, marked=(5, 11, 17))
PUBLISHED = {
    "Qwen2-VL-2B": Numbers(Family.qwen2_vl, 1536, 8960, 28, 12, 2, 151936, True, Vision()),
    "Qwen2-VL-7B": Numbers(Family.qwen2_vl, 3584, 18944, 28, 28, 4, 152064, False, Vision()),
    "Qwen2.5-VL-3B": Numbers(Family.qwen2_5_vl, 2048, 11008, 36, 16, 2, 151936, True, _TOWER_2_5, positions=128000),
    "Qwen2.5-VL-7B": Numbers(Family.qwen2_5_vl, 3584, 18944, 28, 28, 4, 152064, False, _TOWER_2_5, positions=128000),
    "Qwen3-VL-4B": Numbers(
        Family.qwen3_vl, 2560, 9728, 36, 32, 8, 151936, True, _TOWER_3, sections=(24, 20, 20), theta=5e6, positions=262144
    ),
}  # fmt: skip


def config(numbers: Numbers) -> dict[str, Any]:
    """config.json: flat with Qwen2-VL and Qwen2.5-VL, as transformers 4.41 wrote it, nested with Qwen3-VL."""
    n, ids = numbers, numbers.ids
    special = {"image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"], "vision_start_token_id": ids["vision_start"]}
    special |= {"vision_end_token_id": ids["vision_end"]}
    text: dict[str, Any] = {
        "attention_dropout": 0.0,
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "hidden_act": "silu",
        "hidden_size": n.hidden,
        "initializer_range": 0.02,
        "intermediate_size": n.intermediate,
        "max_position_embeddings": n.positions,
        "num_attention_heads": n.heads,
        "num_hidden_layers": n.layers,
        "num_key_value_heads": n.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": n.theta,
        "tie_word_embeddings": n.tied,
        "use_cache": True,
        "vocab_size": n.vocabulary,
    }
    if n.family is Family.qwen3_vl:
        text |= {"attention_bias": False, "dtype": "bfloat16", "head_dim": n.head_dim, "model_type": "qwen3_vl_text"}
        text["rope_scaling"] = {"mrope_interleaved": True, "mrope_section": list(n.sections), "rope_type": "default"}
        made = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "transformers_version": "4.57.0.dev0"}
        return {**made, "text_config": text, "tie_word_embeddings": n.tied, "vision_config": vision_config(n), **special}
    text |= {"max_window_layers": n.layers, "rope_scaling": {"type": "mrope", "mrope_section": list(n.sections)}, "sliding_window": 32768}
    name = "Qwen2VL" if n.family is Family.qwen2_vl else "Qwen2_5_VL"
    made = {"architectures": [f"{name}ForConditionalGeneration"], "model_type": n.family.value, "transformers_version": "4.41.2"}
    special |= {"vision_token_id": ids["vision_pad"]}
    return {**made, **text, **special, "torch_dtype": "bfloat16", "use_sliding_window": False, "vision_config": vision_config(n)}


def vision_config(n: Numbers) -> dict[str, Any]:
    """Qwen2-VL's `hidden_size` is the language model's width, which the others call `out_hidden_size`."""
    tower: dict[str, Any] = {"depth": n.vision.depth, "num_heads": n.vision.heads, "patch_size": n.patch, "spatial_merge_size": 2}
    tower["temporal_patch_size"] = 2
    if n.family is Family.qwen2_vl:
        ratio = n.vision.intermediate // n.vision.width
        return tower | {"embed_dim": n.vision.width, "hidden_size": n.hidden, "mlp_ratio": ratio, "in_chans": 3, "spatial_patch_size": n.patch}
    tower |= {"hidden_size": n.vision.width, "intermediate_size": n.vision.intermediate, "out_hidden_size": n.hidden}
    marked = list(n.vision.marked)
    if n.family is Family.qwen2_5_vl:
        tower |= {"fullatt_block_indexes": marked, "window_size": n.vision.window, "tokens_per_second": 2, "hidden_act": "silu"}
        return tower | {"in_chans": 3, "spatial_patch_size": n.patch}
    tower |= {"deepstack_visual_indexes": marked, "num_position_embeddings": n.vision.places, "hidden_act": "gelu_pytorch_tanh"}
    return tower | {"in_channels": 3, "initializer_range": 0.02, "model_type": "qwen3_vl"}


def tensor_names(n: Numbers) -> set[str]:
    """What the index of a published folder lists."""

    def both(prefix: str, *modules: str) -> set[str]:
        return {f"{prefix}{module}.{kind}" for module in modules for kind in ("weight", "bias")}

    new = n.family is Family.qwen3_vl
    language, tower = ("model.language_model.", "model.visual.") if new else ("model.", "visual.")
    names = {f"{language}embed_tokens.weight", f"{language}norm.weight", f"{tower}patch_embed.proj.weight"} | (
        {"lm_head.weight"} if not n.tied else set()
    )
    for i in range(n.layers):
        layer = f"{language}layers.{i}."
        names |= {f"{layer}{norm}.weight" for norm in ("input_layernorm", "post_attention_layernorm")}
        names |= {
            f"{layer}{part}_proj.weight" for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
        }
        names |= {
            f"{layer}self_attn.{part}" for part in (("q_norm.weight", "k_norm.weight") if new else ("q_proj.bias", "k_proj.bias", "v_proj.bias"))
        }
    mlp = {Family.qwen2_vl: ("mlp.fc1", "mlp.fc2"), Family.qwen2_5_vl: ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
    for i in range(n.vision.depth):
        block = f"{tower}blocks.{i}."
        names |= both(block, "attn.qkv", "attn.proj", *mlp.get(n.family, ("mlp.linear_fc1", "mlp.linear_fc2")))
        names |= both(block, "norm1", "norm2") if n.family is not Family.qwen2_5_vl else {f"{block}norm1.weight", f"{block}norm2.weight"}
    if new:
        deep = {name for i in range(len(n.vision.marked)) for name in both(f"{tower}deepstack_merger_list.{i}.", "norm", "linear_fc1", "linear_fc2")}
        return (
            names
            | deep
            | both(tower, "merger.norm", "merger.linear_fc1", "merger.linear_fc2")
            | {f"{tower}patch_embed.proj.bias", f"{tower}pos_embed.weight"}
        )
    names |= both(tower, "merger.mlp.0", "merger.mlp.2") | {f"{tower}merger.ln_q.weight"}
    return names | ({f"{tower}merger.ln_q.bias"} if n.family is Family.qwen2_vl else set())
