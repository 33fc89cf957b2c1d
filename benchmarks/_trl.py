"""The other side: TRL's GRPOTrainer as its constructor makes it, on a workload; its steps, and its forward and backward on given completions.

All rows in one batch, no gradient checkpointing, float32, nothing logged or saved; the loss and the length of completions are ours.
Axes: P prompts, G completions a prompt, B = P·G rows, T completion tokens.
"""

import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _workloads as workloads
import torch
import transformers
from _measure import Sample
from _peer import Repeated, processor
from _workloads import KL, Workload
from datasets import Dataset, Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

# Methods of GRPOTrainer that are timed, by what they are: the first two are what comes before training, and nest.
TIMED = {"rollout": "_prepare_inputs", "generate": "_generate_single_turn", "training_step": "training_step"}


@contextmanager
def trainer(workload: Workload, *, kl: bool = False, train_tower: bool = False, steps: int = 1) -> Iterator[Any]:
    """A trainer of `steps` steps, each on the workload's prompts."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="trl|transformers|accelerate|torch")
    rows = {"prompt": [[{"role": "user", "content": q}] for q in workloads.questions(workload)] * steps, "image": workloads.images(workload) * steps}
    with tempfile.TemporaryDirectory() as folder:
        model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
            workloads.save(workload, Path(folder) / "model"), dtype=torch.float32, attn_implementation="sdpa"
        )
        model.model.visual.requires_grad_(train_tower)
        arguments = GRPOConfig(
            output_dir=str(Path(folder) / "out"),
            max_steps=steps,
            per_device_train_batch_size=workload.rows,
            num_generations=workload.group,
            max_completion_length=workload.tokens,
            generation_kwargs={"min_new_tokens": workload.tokens},
            beta=KL if kl else 0.0,
            loss_type="grpo",
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=workloads.SEED,
        )
        yield GRPOTrainer(
            model=model,
            processing_class=processor(workload),
            train_dataset=Dataset.from_dict(rows).cast_column("image", Image()),
            reward_funcs=lambda completions, **_: [workloads.reward(i) for i in range(len(completions))],
            args=arguments,
        )


class Training:
    """TRL's own loss and its backward on completions that are given."""

    def __init__(self, trainer: Any, workload: Workload) -> None:
        self.trainer, self.repeated = trainer, Repeated(workload)
        self.advantages_B = workloads.advantages(workload)
        self.trainer.current_gradient_accumulation_steps = 1  # set by `transformers.Trainer` inside its loop

    def forward_backward(self, completions_PG: Sequence[Sequence[Tensor]]) -> None:
        """Leaves the loss's gradients on the model."""
        completions = [completion for group in completions_PG for completion in group]
        tokens_BT = pad_sequence(completions, batch_first=True)
        mask_BT = pad_sequence([torch.ones_like(c) for c in completions], batch_first=True)
        inputs = dict(self.repeated.inputs_B)
        types_BS = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens_BT)], dim=1)
        inputs |= {"prompt_ids": inputs.pop("input_ids"), "prompt_mask": inputs.pop("attention_mask"), "mm_token_type_ids": types_BS}
        inputs |= {"completion_ids": tokens_BT, "completion_mask": mask_BT, "advantages": self.advantages_B, "num_images": [1] * len(completions)}
        model = self.trainer.model.train()
        model.zero_grad()
        self.trainer._compute_loss(model, inputs).backward()


def steps(workload: Workload, between: Callable[[Sample], None], *, kl: bool = False, train_tower: bool = False, count: int) -> None:
    """`count` steps of TRL's training loop; `between` is called after each, inside the loop and outside the step's time."""
    with trainer(workload, kl=kl, train_tower=train_tower, steps=count) as looped:
        looped.add_callback(_Clock(_spent(looped), between))
        looped.remove_callback(transformers.PrinterCallback)
        looped.train()


def _spent(trainer: Any) -> dict[str, float]:
    """Seconds in each of the timed methods, adding up while the trainer runs."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = method(*args, **kwargs)
            spent[name] += time.perf_counter() - started
            return result

        return wrapped

    for name, method in TIMED.items():
        setattr(trainer, method, timed(name, getattr(trainer, method)))
    return spent


class _Clock(transformers.TrainerCallback):
    """Starts and stops with TRL's step. `rollout` is all that comes before the loss, `generate` and the reference included."""

    def __init__(self, spent: dict[str, float], between: Callable[[Sample], None]) -> None:
        self.spent, self.between = spent, between

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.spent.clear()
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds, cpu = time.perf_counter() - self.started, time.process_time() - self.cpu
        training = self.spent.pop("training_step")
        update = {"forward_backward": training - self.spent["rollout"], "optimizer": seconds - training}
        self.between(Sample(seconds, cpu, {**self.spent, **update}))
