"""The other side: Hugging Face's `generate`, and a padded forward that repeats every prompt and image G times.

Axes: P prompts, G completions a prompt, B = P·G rows, S prompt tokens, T completion tokens, V vocabulary.
"""

import time
from collections.abc import Sequence
from typing import Any

import _workloads as workloads
import torch
from _workloads import Workload
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList, Qwen2VLProcessor

from visual_rft.losses import KlOptions, LossOptions, policy_loss


class PeerProcessor(Qwen2VLProcessor):
    """The stock one refuses to be made without torchvision, which its video processor wants."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """What it is made of; transformers reads a name like `video_processor` out of the stock signature."""
        return ["image_processor", "tokenizer"]


def processor(workload: Workload) -> PeerProcessor:
    """Tokenizer, image processor and chat template of the workload."""
    words = workloads.tokenizer(workload)
    return PeerProcessor(workloads.image_processor(workload), words, chat_template=words.chat_template)


class ForcedLengths(LogitsProcessor):
    """Row b says its end token as its token number lengths_B[b], and never before; notes when the first distribution comes: the prefill is over."""

    def __init__(self, lengths_B: Sequence[int], prompt_tokens: int, end_id: int) -> None:
        self.lengths_B, self.prompt_tokens, self.end_id = torch.tensor(lengths_B), prompt_tokens, end_id
        self.prefilled: float | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores_BV with the end token forced or forbidden."""
        self.prefilled = self.prefilled or time.perf_counter()
        ends_B = self.lengths_B <= input_ids.shape[1] - self.prompt_tokens + 1
        scores[ends_B] = float("-inf")
        scores[:, self.end_id] = torch.where(ends_B, 0.0, float("-inf"))
        return scores


class Repeated:
    """Plain Hugging Face on B rows: every row has its own copy of its prompt and of its image."""

    def __init__(self, workload: Workload, *, train_tower: bool = False, rows_at_once: int | None = None) -> None:
        self.workload, self.processor = workload, processor(workload)
        self.model = workloads.model(workload, self.processor.tokenizer)
        self.model.model.visual.requires_grad_(train_tower)
        self.rows_at_once = rows_at_once or workload.rows
        self.advantages_B = workloads.advantages(workload)
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
            for image, question in zip(workloads.images(workload), workloads.questions(workload), strict=True)
            for _ in range(workload.group)
        ]
        self.inputs_B = dict(
            self.processor.apply_chat_template(
                conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
            )
        )

    @torch.no_grad()
    def encode(self) -> None:
        """Every row's image."""
        self.model.model.get_image_features(self.inputs_B["pixel_values"], self.inputs_B["image_grid_thw"])

    @torch.no_grad()
    def generate(self, lengths_PG: Sequence[Sequence[int]]) -> tuple[list[list[Tensor]], dict[str, float]]:
        """Sampled completions_PG of these lengths, and the seconds of prefill (the images' encode included) and decode."""
        started = time.perf_counter()
        lengths = [n for lengths_G in lengths_PG for n in lengths_G]
        width, end_id = self.inputs_B["input_ids"].shape[1], self.processor.tokenizer.eos_token_id
        forced = ForcedLengths(lengths, width, end_id)
        tokens_BT = self.model.eval().generate(
            **self.inputs_B,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=max(lengths),
            suppress_tokens=[self.model.config.image_token_id],
            logits_processor=LogitsProcessorList([forced]),
            disable_compile=True,
        )[:, width:]
        assert forced.prefilled
        parts = {"prefill": forced.prefilled - started, "decode": time.perf_counter() - forced.prefilled}
        flat = iter(row[:n].clone() for row, n in zip(tokens_BT, lengths, strict=True))
        return [[next(flat) for _ in lengths_G] for lengths_G in lengths_PG], parts

    def forward_backward(self, completions_PG: Sequence[Sequence[Tensor]], banned: Tensor | None = None) -> Tensor:
        """logprobs_BT (right-padded with 0) of the completions; the loss's gradients are left on the model. `banned` ids have probability zero.

        The head runs on every position, as TRL's does on the CPU.
        """
        completions = [completion for group in completions_PG for completion in group]
        tokens_BT = pad_sequence(completions, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id)
        mask_BT = pad_sequence([torch.ones(len(c), dtype=torch.bool) for c in completions], batch_first=True)
        self.model.train().zero_grad()
        rows = range(0, len(completions), self.rows_at_once)
        return torch.cat([self._part(slice(i, i + self.rows_at_once), tokens_BT, mask_BT, banned) for i in rows])

    def _part(self, rows: slice, tokens_BT: Tensor, mask_BT: Tensor, banned: Tensor | None) -> Tensor:
        tokens_BT, mask_BT, each = tokens_BT[rows], mask_BT[rows], len(self.inputs_B["pixel_values"]) // self.workload.rows
        last = min(rows.stop, self.workload.rows)
        zeros_BT = torch.zeros_like(tokens_BT)
        logits_BSV = self.model(
            input_ids=torch.cat([self.inputs_B["input_ids"][rows], tokens_BT], dim=1),
            attention_mask=torch.cat([self.inputs_B["attention_mask"][rows], mask_BT.long()], dim=1),
            mm_token_type_ids=torch.cat([self.inputs_B["mm_token_type_ids"][rows], zeros_BT], dim=1),
            pixel_values=self.inputs_B["pixel_values"][rows.start * each : last * each],
            image_grid_thw=self.inputs_B["image_grid_thw"][rows],
            use_cache=False,
        ).logits
        logits_BTV = logits_BSV[:, -tokens_BT.shape[1] - 1 : -1]
        if banned is not None:
            logits_BTV = logits_BTV.index_fill(-1, banned, float("-inf"))
        logprobs_BTV = torch.log_softmax(logits_BTV, dim=-1)
        logprobs_BT = logprobs_BTV.gather(-1, tokens_BT[..., None])[..., 0]
        loss, _ = policy_loss(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=logprobs_BT.detach(),
            reference_logprobs_BT=None,
            advantages_B=self.advantages_B[rows],
            mask_BT=mask_BT,
            options=LossOptions(kl=KlOptions(0.0)),
            total=self.workload.rows,
        )
        loss.backward()
        return torch.where(mask_BT, logprobs_BT, 0.0).detach()

    def gradients(self) -> dict[str, Tensor]:
        """Of every parameter that trains, by its name."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
