"""Model folders as they are published on the hub: the same files, keys and names, with few and random numbers in them.

The configuration is written by what also writes that of the published models, which are
too large for a test (tests/hub_models.py).
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from families import Family
from folders import Naming, named
from hub_models import PUBLISHED, SPECIAL, Numbers, Vision, config, tensor_names
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
SPECIAL_TOKENS = [f"<|{name}|>" for name in SPECIAL]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = ["Detect all objects of the category cat in the image. <think> </think> <answer> [{'Position': [1, 2, 3, 4], 'Confidence': 0.9}] </answer>"]
PROCESSORS = {Family.qwen2_vl: "Qwen2VLProcessor", Family.qwen2_5_vl: "Qwen2_5_VLProcessor", Family.qwen3_vl: "Qwen3VLProcessor"}


def small(family: Family, *, tied: bool) -> Numbers:
    """With room for our tokenizer, and for more, as published."""
    tower = {
        Family.qwen2_vl: Vision(3, 32, 2, 128),
        Family.qwen2_5_vl: Vision(3, 32, 2, 48, (1,), window=56),
        Family.qwen3_vl: Vision(3, 32, 2, 48, (0, 1), places=25),
    }[family]
    first = len(tokenizer().get_vocab()) - len(SPECIAL_TOKENS)
    sections = (4, 2, 2) if family is Family.qwen3_vl else (2, 3, 3)
    return Numbers(family, 64, 96, 3, 4, 2, 384, tied, tower, first, head_dim=16, sections=sections, theta=100.0, positions=512)


def template(family: Family) -> str:
    """Renders what the published templates render: an item is an image by its type or by its key, and may be numbered."""
    image = "{% if part.type == 'image' or 'image' in part or 'image_url' in part %}{% set seen.images = seen.images + 1 %}"
    image += f"{{% if add_vision_id %}}Picture {{{{ seen.images }}}}: {{% endif %}}{IMAGE}"
    parts = f"{{% for part in message.content %}}{image}{{% elif 'text' in part %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}"
    system = f"{{% if loop.first and message.role != 'system' %}}{SYSTEM}{{% endif %}}" if family is not Family.qwen3_vl else ""
    content = f"{{% if message.content is string %}}{{{{ message.content }}}}{{% else %}}{parts}{{% endif %}}"
    each = f"{{% for message in messages %}}{system}<|im_start|>{{{{ message.role }}}}\n{content}<|im_end|>\n{{% endfor %}}"
    return f"{{% set seen = namespace(images=0) %}}{each}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"


@cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE in the pieces of Qwen2's, the special tokens behind all others, as published."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    bpe.add_special_tokens(SPECIAL_TOKENS)
    return bpe


def narrowed(name: str) -> Numbers:
    """A published model's widths and heads, with two layers, a short tower and our tokenizer."""
    true, like = PUBLISHED[name], small(PUBLISHED[name].family, tied=True)
    deep = {Family.qwen2_vl: (), Family.qwen2_5_vl: (1,), Family.qwen3_vl: (0, 1)}[true.family]
    vision = replace(true.vision, depth=2, marked=deep)
    return replace(true, layers=2, intermediate=256, vocabulary=like.vocabulary, first_special=like.first_special, vision=vision)


@dataclass(frozen=True)
class Layout:
    """Which of the ways in which folders of the family are found."""

    family: Family
    tied: bool = True
    five: bool = False  # configuration and tensor names as transformers 5 writes them
    chat: str = "chat_template.json"  # or chat_template.jinja, tokenizer_config.json
    vocabulary: str = "tokenizer.json"  # or merges.txt, with vocab.json
    widths: str = ""  # those of this published model
    images: str = ""  # the image processor's type, if not the family's own; "processor_config.json" for that file of transformers 5

    @property
    def numbers(self) -> Numbers:
        return narrowed(self.widths) if self.widths else small(self.family, tied=self.tied)

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in asdict(self).items() if value not in ("", False) and key != "family") + f" {self.family}"


def write(layout: Layout, place: Path, parts: int = 2) -> Path:
    """A whole folder of a small model."""
    place.mkdir(parents=True, exist_ok=True)
    numbers = layout.numbers
    save = write_json(place)
    save("config.json", config(numbers))
    _write_weights(numbers, place, layout.five, parts)
    ids = numbers.ids
    greedy = {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.01, "repetition_penalty": 1.0}
    greedy = {**greedy} if layout.family is Family.qwen2_vl else {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
    ends = {"bos_token_id": ids["endoftext"], "pad_token_id": ids["endoftext"], "eos_token_id": [ids["im_end"], ids["endoftext"]]}
    save("generation_config.json", {**greedy, **ends, "transformers_version": "4.37.0"})
    images = preprocessor(replace(layout, images="") if layout.images == "processor_config.json" else layout)
    if layout.images == "processor_config.json":
        save("processor_config.json", {"image_processor": images, "processor_class": PROCESSORS[layout.family]})
    else:
        save("preprocessor_config.json", images)
    _write_tokenizer(layout, place)
    return place


def write_json(place: Path) -> Any:
    return lambda name, content: (place / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def preprocessor(layout: Layout) -> dict[str, Any]:
    """preprocessor_config.json: limits by name with Qwen2-VL and Qwen2.5-VL, as edges (which are areas) with Qwen3-VL."""
    shared = {"temporal_patch_size": 2, "merge_size": 2, "processor_class": PROCESSORS[layout.family]}
    if layout.family is Family.qwen3_vl:
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": layout.images or "Qwen2VLImageProcessorFast"}
        return {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, **half, **shared}
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    return {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        **clip,
        "image_processor_type": layout.images or "Qwen2VLImageProcessor",
        **shared,
    }


def _write_tokenizer(layout: Layout, place: Path) -> None:
    save, first = write_json(place), small(layout.family, tied=True).first_special
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(first + i): {"content": token, **plain} for i, token in enumerate(SPECIAL_TOKENS)},
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "padding_side": "left",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    chat = template(layout.family)
    save("tokenizer_config.json", settings | ({"chat_template": chat} if layout.chat == "tokenizer_config.json" else {}))
    if layout.chat == "chat_template.json":
        save("chat_template.json", {"chat_template": chat})
    elif layout.chat == "chat_template.jinja":
        (place / "chat_template.jinja").write_text(chat, encoding="utf-8")
    bpe = json.loads(tokenizer().to_str())["model"]
    save("vocab.json", bpe["vocab"])
    (place / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in bpe["merges"]), encoding="utf-8")
    if layout.vocabulary == "tokenizer.json":
        tokenizer().save(str(place / "tokenizer.json"))


def _write_weights(numbers: Numbers, place: Path, five: bool, parts: int) -> None:
    """Random, in bfloat16, in several files and their index; `five` has its configuration rewritten, too."""
    settings, generator = AutoConfig.from_pretrained(place), torch.Generator().manual_seed(0)
    model = AutoModelForImageTextToText.from_config(settings, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + float(parameter.ndim == 1 and name.endswith("weight")))
    if five:
        settings.save_pretrained(place)
    tensors = named(model, Naming.five if five else Naming.hub)
    assert five or tensors.keys() == tensor_names(numbers), tensors.keys() ^ tensor_names(numbers)
    files = {name: f"model-{i * parts // len(tensors) + 1:05d}-of-{parts:05d}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, place / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(place)("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})
