"""The oracle of the tests: the plain padded path of Hugging Face. Every completion is a row of its own, its prompt and images repeated before it.

Axes: B rows (all completions, prompt by prompt), S padded tokens (right-padded), T tokens of one completion, V vocabulary, I images.
"""

from dataclasses import dataclass

import torch
from families import RaggedBatch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel


@dataclass(frozen=True)
class PaddedScores:
    """One tensor [T] a completion, in order: its tokens' logprobs and the entropy of the distribution of each."""

    logprobs_B: list[Tensor]
    entropy_B: list[Tensor]


def stock(model: PreTrainedModel) -> PreTrainedModel:
    """A new model of the same class with the same weights and Hugging Face's own SDPA, whatever was done to the first."""
    twin = type(model)._from_config(type(model.config).from_dict(model.config.to_dict()), attn_implementation="sdpa")
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def padded(model: PreTrainedModel, banned_V: Tensor, batch: RaggedBatch, temperature: float) -> PaddedScores:
    """Scores by one forward of the stock model over all rows, its head over all positions."""
    rows = [(p, completion) for p, group in enumerate(batch.completions_PG) for completion in group]
    sequences = [torch.cat([batch.tokens_P[p], completion]) for p, completion in rows]
    ids_BS = pad_sequence(sequences, batch_first=True, padding_value=model.config.get_text_config().pad_token_id)
    mask_BS = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
    types_BS = ((ids_BS == model.config.image_token_id) & mask_BS.bool()).int()
    images = [image for p, _ in rows for image in batch.images_P[p]]
    logits_BSV = model(
        input_ids=ids_BS, attention_mask=mask_BS, mm_token_type_ids=types_BS, use_cache=False, **_repeated(batch, images)
    ).logits.float()
    logprobs_BSV = (logits_BSV.masked_fill(banned_V, float("-inf")) / temperature).log_softmax(-1)
    logprobs_B, entropy_B = [], []
    for row, (p, completion) in enumerate(rows):
        before = len(batch.tokens_P[p]) - 1  # a token is predicted from the one before it
        logprobs_TV = logprobs_BSV[row, before : before + len(completion)]
        logprobs_B.append(logprobs_TV.gather(-1, completion[:, None])[:, 0])
        entropy_B.append(-(logprobs_TV.exp() * logprobs_TV.masked_fill(banned_V, 0.0)).sum(-1))
    return PaddedScores(logprobs_B, entropy_B)


def _repeated(batch: RaggedBatch, images: list[int]) -> dict[str, Tensor]:
    """The patches and grids of the images in this order, as often as they are named."""
    if not images:
        return {}
    patches_I = batch.pixels.patches_RD.split(batch.pixels.grid_I3.prod(-1).tolist())
    return {"pixel_values": torch.cat([patches_I[image] for image in images]), "image_grid_thw": batch.pixels.grid_I3[images]}
