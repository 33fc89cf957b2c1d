"""Our advantages, loss and gradient are those of TRL: its own trainer computes the other side, nothing of it is retyped here.

    pytest tests/test_trl_parity.py

The trainer is built by its public constructor on a model of a few hundred weights; its rollout and reward hooks supply random completions and
rewards, its own lines turn them into advantages, and `_compute_loss` runs on random log-probabilities put in the place of the model's.
Axes: P prompts, G completions a prompt, B = P·G rows, T completion tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from visual_rft.advantages import group_advantages
from visual_rft.losses import Aggregation, KlOptions, LossOptions, policy_loss

P, G = 3, 4
B = P * G
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
AGGREGATION = {"grpo": Aggregation.sequence, "bnpo": Aggregation.token, "dapo": Aggregation.token}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """TRL allocates its rewards in the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="b"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained(path)
    config = Qwen2Config(vocab_size=3, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def make_trainer(folder: Path, lengths_B: list[int], rewards_B: list[float | None], **options: Any) -> Any:
    """A trainer in training mode whose completions have these lengths and earn these rewards; the rest is TRL's."""
    trainer = GRPOTrainer(
        model=str(folder),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        rollout_func=lambda *_: {"prompt_ids": [[1]] * B, "completion_ids": [[1] * n for n in lengths_B], "logprobs": None},
        reward_funcs=lambda **_: rewards_B,
        args=GRPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            epsilon=CLIP_LOW,
            epsilon_high=CLIP_HIGH,
            num_generations=G,
            use_bias_correction_kl=False,  # TRL's default follows DeepSeek-V3.2; the paper adds the estimator as it is
            **options,
        ),
    )
    assert isinstance(trainer.model, Qwen2ForCausalLM)
    trainer.model.train()
    return trainer


class Peer:
    """A trainer, the batch that it made of random completions and rewards, and random log-probabilities for that batch."""

    def __init__(self, folder: Path, *, loss_type: str, beta: float, updates: int = 1, micro_batches: int = 1, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rewards_PG = torch.rand(P, G, generator=generator, dtype=torch.float32).double()  # TRL rounds rewards to float32
        self.rewards_PG[-1] = 0.125
        self.trainer = make_trainer(
            folder,
            torch.randint(1, 9, (B,), generator=generator).tolist(),
            self.rewards_PG.flatten().tolist(),
            loss_type=loss_type,
            beta=beta,
            per_device_train_batch_size=B // micro_batches,
            gradient_accumulation_steps=micro_batches,
        )
        self.batch: dict[str, Any] = self.trainer._generate_and_score_completions([{"prompt": "a"}] * B)
        self.mask_BT: Tensor = self.batch["completion_mask"].bool()
        shape = self.mask_BT.shape
        self.logprobs_BT = -torch.rand(shape, generator=generator) - 0.1
        self.old_logprobs_BT = self.logprobs_BT
        if updates == 2:
            self.old_logprobs_BT = self.logprobs_BT + 0.3 * torch.randn(shape, generator=generator)
            self.batch["old_per_token_logps"] = self.old_logprobs_BT
        self.reference_BT = None
        if beta:
            self.reference_BT = self.logprobs_BT + 0.5 * torch.randn(shape, generator=generator)
            self.batch["ref_per_token_logps"] = self.reference_BT

    def loss_and_gradient(self, micro_batches: int = 1) -> tuple[Tensor, Tensor]:
        """As TRL's training loop has it: each micro-batch goes backward, the gradients accumulate."""
        leaf_BT = self.logprobs_BT.clone().requires_grad_()
        self.trainer.current_gradient_accumulation_steps = micro_batches  # set by `transformers.Trainer` inside its loop
        loss = torch.zeros(())
        for rows in torch.arange(B).chunk(micro_batches):
            entropies_BT = torch.zeros(len(rows), leaf_BT.shape[1])
            self.trainer._get_per_token_logps_and_entropies = lambda *_, rows=rows, entropies=entropies_BT, **__: (leaf_BT[rows], entropies, None)
            part = self.trainer._compute_loss(self.trainer.model, {k: v[rows] if v.ndim else v for k, v in self.batch.items()})
            part.backward()
            loss = loss + part.detach()
        assert leaf_BT.grad is not None
        return loss, leaf_BT.grad

    def metric(self, name: str) -> float:
        (value,) = self.trainer._metrics["train"][name]
        return float(value)


def ours(peer: Peer, *, beta: float, aggregation: Aggregation) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, gradient and metrics of the whole batch by this package."""
    leaf_BT = peer.logprobs_BT.clone().requires_grad_()
    loss, metrics = policy_loss(
        logprobs_BT=leaf_BT,
        old_logprobs_BT=peer.old_logprobs_BT,
        reference_logprobs_BT=peer.reference_BT,
        advantages_B=group_advantages(peer.rewards_PG).flatten(),
        mask_BT=peer.mask_BT,
        options=LossOptions(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, kl=KlOptions(beta), aggregation=aggregation),
        total=B if aggregation is Aggregation.sequence else int(peer.mask_BT.sum()),
    )
    loss.backward()
    assert leaf_BT.grad is not None
    return loss.detach(), leaf_BT.grad, metrics


def assert_close(a: Tensor | float, b: Tensor | float) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_advantages_agree(folder: Path, seed: int) -> None:
    peer = Peer(folder, loss_type="grpo", beta=0.0, seed=seed)
    assert peer.trainer.scale_rewards == "group"
    assert peer.batch["advantages"].dtype == torch.float64
    assert_close(group_advantages(peer.rewards_PG).flatten(), peer.batch["advantages"])


@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo"])
def test_loss_and_gradient_agree(folder: Path, loss_type: str, beta: float, updates: int) -> None:
    peer = Peer(folder, loss_type=loss_type, beta=beta, updates=updates)
    loss, gradient_BT, metrics = ours(peer, beta=beta, aggregation=AGGREGATION[loss_type])
    their_loss, their_gradient_BT = peer.loss_and_gradient()
    assert their_gradient_BT.abs().max() > 1e-3
    assert_close(loss, their_loss)
    assert_close(gradient_BT, their_gradient_BT)
    assert (metrics["policy/clip_fraction"] > 0) == (updates == 2), "two updates must exercise the clip"
    if AGGREGATION[loss_type] is Aggregation.token:  # whatever the loss, TRL logs means over tokens
        assert_close(metrics["policy/clip_fraction"], peer.metric("clip_ratio/region_mean"))
        if beta:
            assert_close(metrics["loss/kl"], peer.metric("kl"))


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_its_accumulated_micro_batches_are_our_whole_batch(folder: Path, loss_type: str, beta: float) -> None:
    peer = Peer(folder, loss_type=loss_type, beta=beta, updates=2, micro_batches=3)
    loss, gradient_BT, _ = ours(peer, beta=beta, aggregation=AGGREGATION[loss_type])
    their_loss, their_gradient_BT = peer.loss_and_gradient(micro_batches=3)
    assert_close(loss, their_loss)
    assert_close(gradient_BT, their_gradient_BT)
