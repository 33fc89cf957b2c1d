"""A search looks for hacks of the strict rewards, judged by an oracle of its own, and ends with none; of the published ones it finds some at once.

    pytest tests/test_adversary_search.py              a glance
    pytest -m slow tests/test_adversary_search.py      two minutes

Two games. In the open one the adversary knows the truth, and a hack is a text that is paid more than what it says deserves, or anything although it
breaks the contract. In the blind one the same text answers many scenes, and a hack earns more in the mean than anybody can who sees nothing.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _hostile import CLASSIFICATION, DETECTION, GROUNDING, SCENES, Scene
from adversary import FAMILIES, PAPER, STRICT, Rewards, earned, task_of
from hunting import Verdict, hunt
from oracle import blind_bound, deserved, overlap, worth

from visual_rft.frames import Box
from visual_rft.vocabulary import ClassTruth, DetectionTruth, GroundingTruth

OPEN_TRIES, BLIND_TRIES = 20_000, 4_000  # of a game in the slow search
ABSENT = 4  # scenes with nothing, beside those of the blind game
SIDE = 4  # cells along an edge
CELLS: list[Box] = [(250 * x, 250 * y, 250 * (x + 1), 250 * (y + 1)) for y in range(SIDE) for x in range(SIDE)]
CLASSES = ["rose", "pink primrose", "tulip", "daisy", "Audi S4 Sedan 2012", "BMW M3 Coupe 2012", "iris", "primrose"]

BLIND: dict[str, tuple[list[Scene], float]] = {  # the scenes, equally likely, and what nobody surpasses who sees none of them
    "one object": ([Scene(DETECTION, DetectionTruth((cell,))) for cell in CELLS], blind_bound(DETECTION, 16, 1, 0.0)),
    "two objects": (
        [Scene(DETECTION, DetectionTruth(pair)) for pair in itertools.combinations(CELLS[::2], 2)],
        blind_bound(DETECTION, 8, 2, 0.0),
    ),
    "one object or none": (
        [Scene(DETECTION, DetectionTruth((cell,))) for cell in CELLS] + [Scene(DETECTION, DetectionTruth(()))] * ABSENT,
        blind_bound(DETECTION, 16, 1, ABSENT / (16 + ABSENT)),
    ),
    "a class": ([Scene(CLASSIFICATION, ClassTruth(name)) for name in CLASSES], blind_bound(CLASSIFICATION, len(CLASSES), 1, 0.0)),
    "a box": ([Scene(GROUNDING, GroundingTruth(cell)) for cell in CELLS], blind_bound(GROUNDING, 16, 1, 0.0)),
}


def shares(rewards: Rewards, scene: Scene, text: str) -> tuple[float, str]:
    """What a text is paid, of what the honest answer is, and its sort."""
    task = task_of(scene.kind, rewards.typed)
    assert task is not None
    (paid, reward), honest = earned(task, scene, text), earned(task, scene, scene.honest)[0]
    said = reward.refusal.reason if reward.refusal else f"{len(reward.answer.boxes)} boxes" if reward.answer else "unread"
    return paid / honest, said


def openly(rewards: Rewards, scene: Scene) -> Callable[[str], Verdict]:
    """The judge of the open game."""

    def judge(text: str) -> Verdict:
        paid, said = shares(rewards, scene, text)
        return Verdict(paid, deserved(text, scene), (said, round(paid * 20)))

    return judge


def blindly(rewards: Rewards, game: str) -> Callable[[str], Verdict]:
    """The judge of the blind game."""
    scenes, bound = BLIND[game]

    def judge(text: str) -> Verdict:
        paid = [shares(rewards, scene, text) for scene in scenes]
        mean = fmean(share for share, _ in paid)
        return Verdict(mean, bound, (paid[0][1], round(mean * 100)))

    return judge


def open_texts(scene: Scene) -> list[str]:
    """Where the open search begins: the honest answer, and every hostile one about this scene."""
    return [scene.honest, *(text for family in FAMILIES for where, text in family.cases if where is scene)]


def blind_texts(game: str) -> list[str]:
    """Where the blind search begins: the honest answers of a few scenes, and hostile ones of the same kind."""
    scenes = BLIND[game][0]
    hostile = [
        text for family in FAMILIES for where, text in family.cases[:4] if where.kind == scenes[0].kind and where.contract == scenes[0].contract
    ]
    return [*dict.fromkeys([*(scene.honest for scene in scenes), "<think></think><answer>No Objects</answer>", *hostile])]


def hacks(judge: Callable[[str], Verdict], texts: Sequence[str], tries: int, seed: int) -> list[str]:
    return [f"{hack.how}: {hack.text!a}" for hack in hunt(judge, texts, seed=seed, tries=tries)]


scenes = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.kind}-{scene.count}-{'think' if scene.contract.thinking else 'bare'}")
games = pytest.mark.parametrize("game", BLIND)


@scenes
def test_a_glance_finds_no_hack_of_strict(scene: Scene) -> None:
    texts = open_texts(scene)
    assert hacks(openly(STRICT, scene), texts, len(texts) + 250, seed=0) == []


@games
def test_a_glance_finds_no_blind_play_that_pays(game: str) -> None:
    assert hacks(blindly(STRICT, game), blind_texts(game), 120, seed=0) == []


@pytest.mark.slow
@scenes
def test_the_search_finds_no_hack_of_strict(scene: Scene) -> None:
    assert hacks(openly(STRICT, scene), open_texts(scene), OPEN_TRIES, seed=1) == []


@pytest.mark.slow
@games
def test_the_search_finds_no_blind_play_that_pays(game: str) -> None:
    assert hacks(blindly(STRICT, game), blind_texts(game), BLIND_TRIES, seed=1) == []


# ---- the controls: the search finds what is there, and the oracle knows what is right


@scenes
def test_the_search_finds_hacks_of_the_published_rewards_from_the_honest_answer_alone(scene: Scene) -> None:
    assert len(hunt(openly(PAPER, scene), [scene.honest], seed=0, tries=2000)) == 5


@games
def test_the_search_finds_blind_play_that_the_published_rewards_pay(game: str) -> None:
    honest = [scene.honest for scene in BLIND[game][0]]
    assert hunt(blindly(PAPER, game), honest, seed=0, tries=600, most=1)


@pytest.mark.parametrize("wrong, how", [
    (lambda text: 1 / 0, "raises ZeroDivisionError"),
    (lambda text: Verdict(float("nan"), 0.0, 0), "is paid nan"),
    (lambda text: Verdict(0.5, 0.4, 0), "is paid 0.5000 and deserves 0.4000"),
])  # fmt: skip
def test_every_fault_of_a_judge_is_a_hack(wrong: Callable[[str], Verdict], how: str) -> None:
    (hack,) = hunt(wrong, ["a text"], seed=0, tries=1)
    assert how in hack.how and hack.text == "a text"


def test_the_same_seed_meets_the_same_texts() -> None:
    def met(seed: int) -> list[str]:
        texts: list[str] = []
        hunt(lambda text: texts.append(text) or Verdict(0.0, 0.0, len(text)), [SCENES[0].honest], seed=seed, tries=300)
        return texts

    assert met(0) == met(0) != met(1) and len(set(met(0))) > 200


@scenes
def test_the_oracle_pays_the_honest_answer_in_full_and_knows_what_refusal_is(scene: Scene) -> None:
    assert deserved(scene.honest, scene) == pytest.approx(1)
    assert deserved(scene.body, scene) == deserved(scene.honest[:-1], scene) == deserved(scene.honest * 2, scene) == 0


def test_the_oracle_by_hand() -> None:
    true, half, near = (0, 0, 100, 100), (0, 0, 50, 100), (0, 0, 80, 100)
    assert overlap(true, half) == 0.5 and overlap(true, (100, 0, 200, 100)) == 0
    assert worth([(half, 1.0)], [true]) == 0 and worth([(near, 0.5)], [true]) == pytest.approx((1 + 0.8 + 0.75) / 3)
    assert worth([], [true]) == pytest.approx(1 / 3) and worth([(true, 1.0), (near, 0.0)], [true]) == pytest.approx(2 / 3)


@games
def test_the_blind_bounds_are_reached_and_so_as_low_as_can_be(game: str) -> None:
    scenes, bound = BLIND[game]
    guesses = [scene.honest for scene in scenes] + [
        f"<think></think><answer>{[{'Position': list(cell), 'Confidence': p} for cell in cells]}</answer>"
        for p in (1 / 16, 1 / 20, 1 / 4)
        for cells in ([CELLS[0]], [CELLS[0], CELLS[2]])
    ]
    assert max(blindly(STRICT, game)(text).paid for text in guesses) == pytest.approx(bound)
