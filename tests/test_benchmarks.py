"""The benchmarks compare like with like, and write what DESIGN.md says. Nothing here looks at a time.

pytest tests/test_benchmarks.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _measure as measure
import _trl as trl
import _workloads as workloads
import flops
import rollout
import scaling
import train_step
import whole_step
from _ours import Ours
from _ours import steps as our_steps
from _peer import Repeated

TINY = workloads.TINY

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def check(figure: dict[str, Any]) -> None:
    assert {"ratio", "ours", "peer", "machine"} <= figure.keys()
    assert {"cpu", "cores", "torch", "transformers", "trl", "date"} <= figure["machine"].keys()
    for spread in (figure["ratio"], figure["ours"]["seconds"], figure["peer"]["seconds"]):
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "figures"),
    [
        (rollout, {"encode", "rollout", "decode", "rollout, uneven lengths", "decode, uneven lengths"}),
        (train_step, {"forward and backward", "encoding again", "beside plain Hugging Face"}),
        (whole_step, {"step", "step with KL", "step, tower trained"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_script_writes_every_figure_and_its_headline(script: Any, figures: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "child", lambda *_: {"peak_gb": measure.peak_gb()})
    script.main(["--workloads", "tiny", "--repeats", "1", "--json", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(f"{script.__name__}_")
    result = json.loads(file.read_text())
    assert result["figures"].keys() == {f"tiny: {name}" for name in figures}
    for figure in (result, *result["figures"].values()):
        check(figure)
    assert result["ratio"] == result["figures"][result["headline"]]["ratio"]


@pytest.mark.slow
def test_scaling_writes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "STANDARD", TINY)
    monkeypatch.setattr(scaling, "PROMPTS", {64: (4, 6), 128: (8, 11)})
    for name, value in {"GROUPS": (2, 4), "GROWTH": (2, 4), "AT_GROUP": 2, "AT_PROMPT": 64}.items():
        monkeypatch.setattr(scaling, name, value)
    result = scaling.main(["--repeats", "1", "--json", str(tmp_path / "a.json")])
    assert len(result["figures"]) == 3
    assert result["growth from G = 2 to G = 4"]["ours"]["seconds"] > 0
    assert (tmp_path / "a.svg").read_text().count("<polyline") == 4


def test_every_workload_is_what_it_says() -> None:
    for workload, visual, whole in ((workloads.STANDARD, 144, 186), (workloads.SMALL, 49, 119)):
        ours = Ours(workload)
        image = ours.policy.model.config.image_token_id
        assert [(len(p.tokens_S), int((p.tokens_S == image).sum())) for p in ours.prompts] == [(whole, visual)] * 4
        assert ours.policy.model.config.get_text_config().vocab_size == workload.vocabulary
    for prompt in scaling.PROMPTS:
        assert scaling.workload(prompt, 8).prompt_tokens == prompt
        assert scaling.workload(prompt, 8).text_tokens > workloads.TEMPLATE_TOKENS


def test_what_is_counted_is_what_is_measured() -> None:
    """`flops` needs no tokenizer, so it says the standard workload in its own words."""
    size, workload = flops.STANDARD, workloads.STANDARD
    assert (size.visual_tokens, size.prompt_tokens) == (workload.cells[0] * workload.cells[1], workload.prompt_tokens)
    assert (size.prompts, size.group, size.tokens, size.vocabulary) == (workload.prompts, workload.group, workload.tokens, workload.vocabulary)
    config = workloads.model(workload, workloads.tokenizer(workload)).config
    text, tower = config.text_config, config.vision_config
    assert (size.hidden, size.mlp, size.layers) == (text.hidden_size, text.intermediate_size, text.num_hidden_layers)
    assert (size.heads, size.kv_heads) == (text.num_attention_heads, text.num_key_value_heads)
    assert (size.tower_layers, size.tower_width, size.tower_heads) == (tower.depth, tower.embed_dim, tower.num_heads)


def test_both_sides_read_the_same_prompts_and_images() -> None:
    ours, peer = Ours(TINY), Repeated(TINY)
    wanted = [prompt.tokens_S for prompt in ours.prompts for _ in range(TINY.group)]
    assert torch.equal(peer.inputs_B["input_ids"], torch.stack(wanted))
    patches = ours.pixels.patches_RD.unflatten(0, (TINY.prompts, -1)).repeat_interleave(TINY.group, 0)
    assert torch.equal(peer.inputs_B["pixel_values"], patches.flatten(0, 1))


def test_both_sides_generate_the_lengths_that_are_forced() -> None:
    lengths_PG = workloads.uneven_lengths(TINY)
    assert len({n for lengths in lengths_PG for n in lengths}) > 1
    for side in (Ours(TINY), Repeated(TINY)):
        completions_PG, parts = side.generate(lengths_PG)
        assert [[len(tokens) for tokens in group] for group in completions_PG] == lengths_PG
        assert parts.keys() == {"prefill", "decode"}


@pytest.mark.parametrize("train_tower", [False, True])
def test_both_sides_compute_the_same_logprobs_and_gradients(train_tower: bool) -> None:
    found = train_step.differences(TINY, train_tower=train_tower)
    assert 0 < found["logprob"] <= 1e-5
    assert 0 < found["gradient"] <= 1e-5


def test_parts_of_the_batch_give_the_gradient_of_the_whole() -> None:
    completions_PG = workloads.completions(TINY, workloads.uneven_lengths(TINY))
    whole, parts = Repeated(TINY), Repeated(TINY, rows_at_once=2)
    torch.testing.assert_close(parts.forward_backward(completions_PG), whole.forward_backward(completions_PG))
    torch.testing.assert_close(parts.gradients(), whole.gradients(), rtol=1e-4, atol=1e-6)


def test_trl_computes_the_gradient_of_plain_hugging_face() -> None:
    completions_PG = workloads.completions(TINY, workloads.uneven_lengths(TINY))
    plain = Repeated(TINY)
    plain.forward_backward(completions_PG)
    with trl.trainer(TINY) as trainer:
        trl.Training(trainer, TINY).forward_backward(completions_PG)
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(gradients, plain.gradients(), rtol=1e-4, atol=1e-6)


def test_steps_of_both_sides_are_as_many_as_asked_and_say_their_parts() -> None:
    theirs: list[measure.Sample] = []
    trl.steps(TINY, theirs.append, count=2)
    ours = list(our_steps(TINY, count=2))
    assert len(theirs) == len(ours) == 2
    assert {"rollout", "generate", "forward_backward", "optimizer"} == theirs[0].parts.keys()
    assert {"encode", "rollout", "update"} <= ours[0].parts.keys()


def test_sides_take_turns_and_change_their_order() -> None:
    order: list[str] = []
    samples = measure.by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b") or {"half": 0.5}}, 3)
    assert "".join(order) == "abbaabba"
    assert [len(samples[name]) for name in "ab"] == [3, 3]
    assert measure.Figure(samples["b"], samples["b"]).part("half").plain()["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
