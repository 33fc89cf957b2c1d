"""Questions and images in, token ids and patches out: Qwen2-VL's chat format, without torchvision.

Axes: S tokens of one prompt, I images, R patches of all images together, D values a patch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

IMAGE_PAD = "<|image_pad|>"
MARK = "<image>"  # where an image stands in the text of a question


@dataclass(frozen=True)
class Pixels:
    """Images ready for the vision tower: patches_RD (float32) and grid_I3 (time, height, width in patches)."""

    patches_RD: torch.Tensor
    grid_I3: torch.Tensor

    def of(self, images: Sequence[int]) -> "Pixels":
        """Those of some of the images, in the order given."""
        patches = self.patches_RD.split(self.grid_I3.prod(-1).tolist())
        return Pixels(torch.cat([self.patches_RD[:0], *(patches[image] for image in images)]), self.grid_I3[list(images)])


def image_processor(folder: Path, *, min_pixels: int, max_pixels: int) -> Qwen2VLImageProcessorPil:
    """That of a model folder, whatever class its file names: all of the family compute the same. Limits are areas, in place of the folder's own."""
    # Said twice, since a file may say its own in either way, and `min_pixels` goes before `size`.
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return Qwen2VLImageProcessorPil.from_pretrained(folder, size=size, min_pixels=min_pixels, max_pixels=max_pixels)


class Processor:
    """Tokenizer, image processor and chat template of one model folder."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, images: Qwen2VLImageProcessorPil) -> None:
        self.tokenizer = tokenizer
        self.images = images

    @classmethod
    def load(cls, folder: Path, *, min_pixels: int, max_pixels: int) -> "Processor":
        """From a model folder; images are resized to between `min_pixels` and `max_pixels` (areas)."""
        tokenizer = AutoTokenizer.from_pretrained(folder)
        beside = folder / "chat_template.json"
        if beside.is_file() and not (folder / "chat_template.jinja").is_file():  # as published; a stock tokenizer knows the newer file only
            tokenizer.chat_template = json.loads(beside.read_text(encoding="utf-8"))["chat_template"]
        for how_it_was_read in ("is_local", "local_files_only"):  # which save_pretrained would write
            tokenizer.init_kwargs.pop(how_it_was_read, None)
        if not tokenizer.chat_template or tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer lacks a chat template or an end token")
        return cls(tokenizer, image_processor(folder, min_pixels=min_pixels, max_pixels=max_pixels))

    def save(self, folder: Path, *, stock_class: str) -> None:
        """As the stock classes read it; `stock_class` is that of a whole processor, which also looks at videos and needs torchvision."""
        self.tokenizer.save_pretrained(folder)
        self.images.save_pretrained(folder)
        file = folder / "preprocessor_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config |= {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": stock_class}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @property
    def end_id(self) -> int:
        """The one token that ends a completion."""
        return int(self.tokenizer.eos_token_id)

    @property
    def allowed_ids(self) -> list[int]:
        """Tokens a completion may hold: no special token but the end (an image token in the text would have no image behind it)."""
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special} - {self.end_id}
        return [i for i in range(len(self.tokenizer)) if i not in special]

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        """Each image once, resized and cut into patches; any mode becomes RGB."""
        out = self.images(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return Pixels(patches_RD=out["pixel_values"].float(), grid_I3=out["image_grid_thw"].long())

    def prompt(self, question: str, grid_I3: torch.Tensor) -> torch.Tensor:
        """tokens_S of a question about the images of this grid in the model's chat template; a placeholder for each cell.

        Each image stands where the question holds `<image>`; all come before one that does not. Raises ValueError when there are more or fewer
        marks than images.
        """
        before, *after = (question if MARK in question else MARK * len(grid_I3) + question).split(MARK)
        if len(after) != len(grid_I3):
            raise ValueError(
                f"a question holds {MARK} {len(after)} times, with {len(grid_I3)} images: {question[:60]!r}; once for each image, or never"
            )
        content = [{"type": "text", "text": before}]
        for text in after:
            content += [{"type": "image"}, {"type": "text", "text": text}]
        content = [part for part in content if part.get("text") != ""]
        rendered = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        cells_I = (grid_I3.prod(-1) // self.images.merge_size**2).tolist()
        before, *after = rendered.split(IMAGE_PAD)
        if len(after) != len(cells_I):
            raise ValueError(f"a question holds {IMAGE_PAD}, which only an image may stand for: {question[:60]!r}; leave it out")
        expanded = before + "".join(IMAGE_PAD * cells + rest for cells, rest in zip(cells_I, after, strict=True))
        return torch.tensor(self.tokenizer(expanded, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    def encode(self, completion: str) -> torch.Tensor:
        """A completion as the model would have said it, end token included."""
        ids = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.end_id], dtype=torch.int64)

    def decode(self, tokens_T: torch.Tensor) -> str:
        """The text of a completion, its end token left out; other special tokens stay visible."""
        ids = tokens_T.tolist()
        return str(self.tokenizer.decode(ids[:-1] if ids and ids[-1] == self.end_id else ids))
