"""The policy: a Qwen2-VL-family model that reads each prompt once, whatever the number of its completions.

Axes: P prompts, G completions of one, B completions of all, T their tokens (right-padded in results only), N tokens of a packed stream, I images,
L levels of features (one; one more for each of Qwen3-VL's deepstack), H hidden width, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from visual_rft.hardware import Attention
from visual_rft.models.attention import Attend, delegate, segment_attention
from visual_rft.models.head import tempered_logits, token_logprobs
from visual_rft.models.packing import Packed, pack
from visual_rft.models.processor import Pixels
from visual_rft.vocabulary import Prompt

# features_LCH of each image, by its row among the images of its step.
Features = Sequence[Tensor] | Mapping[int, Tensor]


class TokenScores(NamedTuple):
    """Logprobs of completion tokens at the sampling temperature, the entropy of the distribution each was drawn from, and where tokens are."""

    logprobs_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor


class Policy(nn.Module):
    """One model of the family. All tokens but `allowed_ids` are banned: probability zero, in the trainer as in the rollout, so that the two agree."""

    banned: Tensor

    def __init__(self, model: PreTrainedModel, allowed_ids: Sequence[int], attention: Attention = Attention.sdpa) -> None:
        super().__init__()
        self.model, self.attention = model, attention
        banned_V = torch.ones(model.config.get_text_config().vocab_size, dtype=torch.bool)  # some rows of an embedding have no token
        banned_V[torch.tensor(allowed_ids)] = False
        self.register_buffer("banned", torch.nonzero(banned_V)[:, 0], persistent=False)
        self.word = torch.tensor(allowed_ids[:1])
        delegate(model.model.language_model, model.model.visual, attention)

    @property
    def device(self) -> torch.device:
        return self.banned.device

    @property
    def blank(self) -> Pixels:
        """The smallest image there is, all zero: what a rank without images encodes while others do."""
        vision = self.model.config.vision_config
        side, values = vision.spatial_merge_size, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return Pixels(torch.zeros(side * side, values), torch.tensor([[1, side, side]]))

    @property
    def tower_is_frozen(self) -> bool:
        """Whether an image's features stay what they are while this model trains."""
        return not any(parameter.requires_grad for parameter in self.model.model.visual.parameters())

    def prompt(self, tokens_S: Tensor, images: Sequence[int], grid_I3: Tensor) -> Prompt:
        """A prompt about the images at these rows of the grid, with its mRoPE positions."""
        types_1S = (tokens_S == self.model.config.image_token_id).int()[None]
        grid_13 = grid_I3[list(images)] if images else None
        positions_31S, _ = self.model.model.get_rope_index(tokens_S[None], types_1S, image_grid_thw=grid_13)
        return Prompt(tokens_S, positions_31S[:, 0], tuple(images))

    def encode(self, pixels: Pixels) -> tuple[Tensor, ...]:
        """Features_LCH of each image (C cells), one pass for all of them."""
        grid_I3 = pixels.grid_I3.to(self.device)
        out = self.model.model.get_image_features(pixels.patches_RD.to(self.device), grid_I3)
        levels = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
        cells = (pixels.grid_I3.prod(-1) // self.model.config.vision_config.spatial_merge_size**2).tolist()
        of_images = zip(*((level if isinstance(level, Tensor) else torch.cat(level)).split(cells) for level in levels), strict=True)
        return tuple(torch.stack(of_image) for of_image in of_images)

    def forward(self, prompts: Sequence[Prompt], features: Features, completions_PG: Sequence[Sequence[Tensor]], temperature: float) -> TokenScores:
        """Scores of each prompt's completions (tokens_T), in order, at the temperature they were sampled at; `features` by image, as of `encode`."""
        packed = pack(prompts, completions_PG, self.model.config.image_token_id).to(self.device)
        hidden_NH = self._read(packed, features)
        head = self.model.get_output_embeddings().weight
        flat = token_logprobs(hidden_NH[packed.before_C], head, packed.targets_C, self.banned, temperature)
        logprobs_BT, entropy_BT = (pad_sequence(values_C.split(packed.lengths), batch_first=True) for values_C in flat)
        lengths_B1 = torch.tensor(packed.lengths, device=self.device)[:, None]
        return TokenScores(logprobs_BT, entropy_BT, torch.arange(logprobs_BT.shape[1], device=self.device) < lengths_B1)

    def read(self, prompts: Sequence[Prompt], features: Features, remember: Callable[[int, Tensor, Tensor], None]) -> Tensor:
        """hidden_PH of each prompt's last token; `remember` is given every layer's keys_KND and values_KND, the prompts one after the other."""
        packed = pack(prompts, [()] * len(prompts), self.model.config.image_token_id).to(self.device)
        return self._read(packed, features, remember)[packed.ends_P]

    def speak(self, tokens_B: Tensor, positions_B: Tensor, attend: Attend) -> Tensor:
        """hidden_BH of one token a row."""
        return self._language(self._embed(tokens_B), positions_B.expand(3, -1), attend)

    def logits(self, hidden_H: Tensor, temperature: float) -> Tensor:
        """[..., V] float32 logits of the next token, divided by the temperature; those of banned tokens are −inf."""
        return tempered_logits(hidden_H, self.model.get_output_embeddings().weight, self.banned, temperature)

    def _read(self, packed: Packed, features: Features, remember: Callable[[int, Tensor, Tensor], None] | None = None) -> Tensor:
        embeds_NH = self._embed(packed.tokens_N)
        within = segment_attention(self.attention, packed.segments, embeds_NH)

        def attend(layer: int, q_AND: Tensor, k_KND: Tensor, v_KND: Tensor) -> Tensor:
            if remember:
                remember(layer, k_KND, v_KND)
            return within(layer, q_AND, k_KND, v_KND)

        if not packed.images:
            return self._language(embeds_NH, packed.positions_3N, attend)
        features_LCH = torch.cat([features[image] for image in packed.images], dim=1).to(embeds_NH.dtype)
        embeds_NH = embeds_NH.index_copy(0, packed.image_places, features_LCH[0])
        return self._language(embeds_NH, packed.positions_3N, attend, packed.image_places, list(features_LCH[1:]))

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def _language(
        self, embeds_NH: Tensor, positions_3N: Tensor, attend: Attend, image_places: Tensor | None = None, deepstack: list[Tensor] | None = None
    ) -> Tensor:
        """hidden_NH of the stock language model. `deepstack` has features for the images' places, to be added after each of the first layers."""
        extra: dict[str, Any] = {}
        if deepstack and image_places is not None:
            visual_1N = torch.zeros(1, len(embeds_NH), dtype=torch.bool, device=self.device).index_fill_(1, image_places, True)
            extra = {"visual_pos_masks": visual_1N, "deepstack_visual_embeds": deepstack}
        return self.model.model.language_model(
            inputs_embeds=embeds_NH[None],
            position_ids=positions_3N[:, None],
            attention_mask={"full_attention": None},  # prepared: nothing is left to mask but what `attend` leaves out
            use_cache=False,
            attend=attend,
            **extra,
        ).last_hidden_state[0]
