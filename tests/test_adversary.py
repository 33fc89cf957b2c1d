"""No hostile completion reaches the honest answer under strict, each family stays under its bound, and docs/rewards.md says what all of them earn.

pytest tests/test_adversary.py
"""

import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import adversary
from _hostile import CLASSIFICATION, DETECTION, FAMILIES, GROUNDING, ONE, PARTS, SCENES, Family, Scene
from adversary import COLUMNS, PAPER, STRICT, earned, greatest, share, task_of

from visual_rft.vocabulary import Reason

ROUNDING = 1e-9
families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@families
def test_no_hostile_completion_reaches_the_honest_answer_and_each_stays_under_its_bound(family: Family) -> None:
    for scene, text in family.cases:
        paid, bound = share(STRICT, (scene, text)), family.bound(scene)
        assert paid is not None and paid <= bound + ROUNDING and bound < 1, f"{paid} of the honest answer's reward for {text!r}"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.count}")
def test_the_honest_answer_earns_everything(scene: Scene) -> None:
    task = task_of(scene.kind, STRICT.typed)
    assert task is not None and earned(task, scene, scene.honest)[0] == pytest.approx(PARTS[scene.kind])


def test_the_completions_are_many_different_and_about_everything() -> None:
    cases = [case for family in FAMILIES for case in family.cases]
    assert len(FAMILIES) >= 20 and len(cases) >= 200
    assert len(set(cases)) >= 0.95 * len(cases), "the families repeat each other"
    assert {scene.kind for scene, _ in cases} == {DETECTION, CLASSIFICATION, GROUNDING}
    assert {scene for scene, _ in cases} == set(SCENES)
    for family in FAMILIES:
        assert len(set(family.cases)) == len(family.cases) >= 4, f"{family.name} repeats itself"
        assert family.name and family.what and family.because


def test_the_completions_meet_every_reason_to_refuse() -> None:
    reasons = set()
    for scene, text in (case for family in FAMILIES for case in family.cases):
        task = task_of(scene.kind, STRICT.typed)
        assert task is not None
        refusal = earned(task, scene, text)[1].refusal
        reasons |= {refusal.reason} if refusal else set()
    assert reasons == set(Reason)


def test_each_bound_is_met_closely_by_some_family() -> None:
    """Bounds so loose that nothing comes near them would say nothing."""
    near = [family for family in FAMILIES if (greatest(STRICT, family) or 0.0) >= adversary.bound(family) - 0.03]
    assert len(near) >= 0.9 * len(FAMILIES)


def test_the_published_rewards_pay_most_families_as_much_as_honesty() -> None:
    """What shows that the completions are hostile."""
    fooled = [family for family in FAMILIES if (greatest(PAPER, family) or 0.0) > 1 - 1e-6]
    assert len(fooled) > len(FAMILIES) / 2


@pytest.mark.slow
def test_the_document_holds_what_the_command_writes() -> None:
    document = adversary.DOCUMENT.read_text()
    assert adversary.written(document) == document, "python benchmarks/adversary.py --write"


def test_every_reward_of_conf_is_a_column() -> None:
    files = {path.stem for path in (adversary.DOCUMENT.parents[1] / "conf" / "rewards").glob("*.yaml")}
    assert files == {column.typed[0].partition("=")[2] for column in COLUMNS}


def test_a_longer_text_has_more_tokens() -> None:
    counts = [adversary.tokens(ONE.honest[:end]) for end in range(len(ONE.honest) + 1)]
    assert counts[0] == 0 and all(one <= other for one, other in pairwise(counts))
