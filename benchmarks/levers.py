"""Which part of the ratio comes from what: forward and backward of plain Hugging Face, and what each lever takes from it, one after the other.

    python benchmarks/levers.py --json benchmarks/results

Every lever is added to those before it; the last is what visual_rft does. Seconds of each, and how many times fewer than the one before.
"""

import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import _measure as measure
import _workloads as workloads
import torch
from _ours import Ours
from _peer import Repeated
from _workloads import Workload
from torch import Tensor

from visual_rft.losses import KlOptions, LossOptions, policy_loss


class EncodedOnce(Repeated):
    """Every row has its own copy of its prompt, but is given the features of its image; the head runs on every position, or on completions only."""

    def __init__(self, workload: Workload, *, head_everywhere: bool) -> None:
        super().__init__(workload)
        self.head_everywhere = head_everywhere
        once = {name: self.inputs_B[name] for name in ("pixel_values", "image_grid_thw")}
        patches = len(once["pixel_values"]) // workload.rows
        with torch.no_grad():
            first = [
                self.model.model.get_image_features(*self._image(once, row, patches)).pooler_output for row in range(0, workload.rows, workload.group)
            ]
        self.features_B = [torch.cat(list(first[row // workload.group])) for row in range(workload.rows)]

    @staticmethod
    def _image(inputs: dict[str, Tensor], row: int, patches: int) -> tuple[Tensor, Tensor]:
        return inputs["pixel_values"][row * patches : (row + 1) * patches], inputs["image_grid_thw"][row : row + 1]

    def _part(self, rows: slice, tokens_BT: Tensor, mask_BT: Tensor, banned: Tensor | None) -> Tensor:
        assert rows.start == 0, "all rows at once"
        ids_BS = torch.cat([self.inputs_B["input_ids"], tokens_BT], dim=1)
        mask_BS = torch.cat([self.inputs_B["attention_mask"], mask_BT.long()], dim=1)
        image_BS = ids_BS == self.model.config.image_token_id
        positions_3BS, _ = self.model.model.get_rope_index(
            ids_BS, image_BS.int(), image_grid_thw=self.inputs_B["image_grid_thw"], attention_mask=mask_BS
        )
        embeds_BSH = self.model.get_input_embeddings()(ids_BS).masked_scatter(image_BS[..., None], torch.cat(self.features_B))
        wanted = tokens_BT.shape[1] + 1
        logits_BSV = self.model(
            inputs_embeds=embeds_BSH,
            position_ids=positions_3BS,
            attention_mask=mask_BS,
            use_cache=False,
            logits_to_keep=0 if self.head_everywhere else wanted,
        ).logits
        logits_BTV = logits_BSV[:, -wanted:-1]
        if banned is not None:
            logits_BTV = logits_BTV.index_fill(-1, banned, float("-inf"))
        logprobs_BT = torch.log_softmax(logits_BTV, dim=-1).gather(-1, tokens_BT[..., None])[..., 0]
        loss, _ = policy_loss(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=logprobs_BT.detach(),
            reference_logprobs_BT=None,
            advantages_B=self.advantages_B,
            mask_BT=mask_BT,
            options=LossOptions(kl=KlOptions(0.0)),
            total=self.workload.rows,
        )
        loss.backward()
        return torch.where(mask_BT, logprobs_BT, 0.0).detach()


def figures(workload: Workload, repeats: int) -> dict[str, dict[str, Any]]:
    """Each lever beside what it is added to."""
    completions_PG = workloads.completions(workload, workloads.even_lengths(workload))
    ours, plain = Ours(workload), Repeated(workload)
    features = ours.encode()
    everywhere, completions_only = (EncodedOnce(workload, head_everywhere=flag) for flag in (True, False))
    peers = {"plain Hugging Face": plain, "each image encoded once": everywhere, "head on completions only": completions_only}
    logprobs_BT = ours.logprobs(completions_PG)
    for name, peer in peers.items():
        torch.testing.assert_close(peer.forward_backward(completions_PG, ours.policy.banned), logprobs_BT, atol=1e-4, rtol=0, msg=name)
    sides: dict[str, measure.Side] = {name: partial(peer.forward_backward, completions_PG) for name, peer in peers.items()}
    sides["each prompt computed once"] = lambda: ours.forward_backward(completions_PG, features)
    samples = measure.by_turns(sides, repeats)
    names = list(sides)
    found = {after: measure.Figure(samples[after], samples[before]).plain() for before, after in pairwise(names)}
    found["all levers"] = measure.Figure(samples[names[-1]], samples[names[0]]).plain()
    return {f"{workload.name}: {name}": figure for name, figure in found.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and writes."""
    options = measure.workload_parser(__doc__).parse_args(arguments)
    measure.pin()
    found = {name: value for one in options.workloads for name, value in figures(one, options.repeats).items()}
    extra = {"workloads": [one.title for one in options.workloads]}
    return measure.report("levers", found, f"{options.workloads[0].name}: all levers", extra, options.json)


if __name__ == "__main__":
    main()
    sys.exit()
