"""The policy: a Qwen2-VL-family model that gives the logprobs of completions, each image encoded once.

Axes: P prompts, B rows (completions), S padded prompt tokens (left-padded), T padded completion tokens (right-padded),
H hidden width, V vocabulary, I images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel

from visual_rft.models.processor import Pixels, Prompt
from visual_rft.vocabulary import PromptInputs


@dataclass(frozen=True)
class TokenScores:
    """Logprobs of completion tokens at the sampling temperature, the entropy of the distribution each was drawn from, and where tokens are."""

    logprobs_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor


class Policy(nn.Module):
    """One model of the family. All tokens but `allowed_ids` are banned: probability zero, in the trainer as in the rollout, so that the two agree."""

    banned_V: Tensor

    def __init__(self, model: PreTrainedModel, allowed_ids: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        banned = torch.ones(model.config.get_text_config().vocab_size, dtype=torch.bool)  # some rows of an embedding have no token
        banned[torch.tensor(allowed_ids)] = False
        self.register_buffer("banned_V", banned, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.banned_V.device

    def features(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """Vision features of each image, [cells, H], one pass for all of them."""
        grid_I3 = pixels.grid_I3.to(self.device)
        out = self.model.model.get_image_features(pixels.patches_RD.to(self.device), grid_I3)
        return tuple(out.pooler_output)

    def prompt_inputs(self, prompts: Sequence[Prompt], pixels: Pixels, features: Sequence[Tensor]) -> PromptInputs:
        """Left-pads the prompts and puts each one's image features in the place of its image tokens."""
        config = self.model.config
        width = max(len(p.tokens_S) for p in prompts)
        tokens_PS = torch.full((len(prompts), width), config.get_text_config().pad_token_id or 0)
        mask_PS = torch.zeros((len(prompts), width), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens_PS[row, width - len(prompt.tokens_S) :] = prompt.tokens_S
            mask_PS[row, width - len(prompt.tokens_S) :] = 1
        tokens_PS, mask_PS = tokens_PS.to(self.device), mask_PS.to(self.device)
        image_PS = (tokens_PS == config.image_token_id) & mask_PS.bool()
        grid_P3 = pixels.grid_I3[[p.image_index for p in prompts]].to(self.device)
        positions_3PS, _ = self.model.model.get_rope_index(tokens_PS, image_PS.int(), image_grid_thw=grid_P3, attention_mask=mask_PS)
        embeds_PSH = self.embed(tokens_PS)
        inserted = torch.cat([features[p.image_index] for p in prompts]).to(embeds_PSH.dtype)
        embeds_PSH = embeds_PSH.masked_scatter(image_PS[..., None], inserted)
        return PromptInputs(embeds_PSH, mask_PS, positions_3PS, positions_3PS.amax((0, 2)) + 1)

    def forward(self, inputs: PromptInputs, prompt_of_row: Sequence[int], completions: Sequence[Tensor], temperature: float) -> TokenScores:
        """Scores of completion r (tokens_T), an answer to prompt `prompt_of_row[r]`; `temperature` is the one it was sampled at."""
        rows = torch.tensor(prompt_of_row, device=self.device)
        tokens_BT = pad_sequence(list(completions), batch_first=True).to(self.device)
        mask_BT = pad_sequence([torch.ones(len(c), dtype=torch.bool) for c in completions], batch_first=True).to(self.device)
        steps_T = torch.arange(tokens_BT.shape[1], device=self.device)
        positions_3BT = (inputs.next_position_P[rows, None] + steps_T).expand(3, -1, -1)
        hidden_BSH = self.language(
            embeds=torch.cat([inputs.embeds_PSH[rows], self.embed(tokens_BT)], dim=1),
            mask=torch.cat([inputs.mask_PS[rows], mask_BT.long()], dim=1),
            positions=torch.cat([inputs.positions_3PS[:, rows], positions_3BT], dim=2),
        )
        before = inputs.embeds_PSH.shape[1] - 1  # a token is predicted from the one before it
        logprobs_BTV = self.log_distribution(hidden_BSH[:, before : before + tokens_BT.shape[1]], temperature)
        logprobs_BT = logprobs_BTV.gather(-1, tokens_BT[..., None])[..., 0]
        with torch.no_grad():
            entropy_BT = -(logprobs_BTV.exp() * logprobs_BTV.masked_fill(self.banned_V, 0.0)).sum(-1)
        return TokenScores(logprobs_BT, entropy_BT, mask_BT)

    def embed(self, tokens: Tensor) -> Tensor:
        """[..., H] input embeddings."""
        return self.model.get_input_embeddings()(tokens)

    def language(self, *, embeds: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor:
        """hidden_BSH of the language model on embeddings; `mask` covers what the cache holds as well, and the cache grows."""
        return self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state

    def new_cache(self) -> DynamicCache:
        """An empty key-value cache."""
        return DynamicCache(config=self.model.config.get_text_config())

    def log_distribution(self, hidden_H: Tensor, temperature: float) -> Tensor:
        """[..., V] float32 logprobs of the next token at a temperature, banned tokens at −inf."""
        logits_V = self.model.get_output_embeddings()(hidden_H).float()
        return torch.log_softmax(logits_V.masked_fill(self.banned_V, float("-inf")) / temperature, dim=-1)
