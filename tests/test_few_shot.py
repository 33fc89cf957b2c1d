"""k-shot splits, their fingerprint and their file: `pytest tests/test_few_shot.py`."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visual_rft import train, workload
from visual_rft.frames import NORM1000
from visual_rft.images import StoredImage
from visual_rft.seeding import Role, shuffled
from visual_rft.sources.digits import CATEGORIES, DigitOptions, Split, scenes
from visual_rft.sources.few_shot import absent, every, fingerprint, k_shot
from visual_rft.sources.split_file import read_split, split_of
from visual_rft.tasks.classification import ClassificationOptions
from visual_rft.tasks.detection import DetectionOptions, example
from visual_rft.tasks.grounding import GroundingOptions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import TaskOptions
from visual_rft.tasks.wording import Style, Wording
from visual_rft.vocabulary import Example

Shown = Mapping[int, set[str]]

POOL = {image.id: image for image in scenes(Split.TRAIN, 220, seed=0)}
SHOWN: Shown = {i: image.shown for i, image in POOL.items()}
LACKING: Shown = {i: set(CATEGORIES) - names for i, names in SHOWN.items()}
COMMON: dict[str, Any] = {"name": "t", "shots": 2, "at_most": False, "split_seed": 0, "split": None, "wording": Wording.terse_1, "thinking": True}
DETECTION = DetectionOptions(
    **COMMON, categories=list(CATEGORIES), trained=None, negatives=0.5, present=Present.all, presence=None, iou_threshold=0.5
)
DIGITS = DigitOptions(200, 1, 1, 3)

# What is published must be drawn again, by everybody: this split of these images is so, whatever the code, the library or the machine.
SMALL: Shown = {397133: {"cat"}, 37777: {"dog", "cat"}, 252219: {"dog"}, 87038: {"cat"}, 174482: {"dog"}, 403385: {"bus"}, 6818: set()}
GOLDEN = {
    0: {"shots": [(397133, "cat"), (37777, "cat"), (174482, "dog"), (252219, "dog")], "absent": [(6818, "cat"), (403385, "cat")]},
    1: {"shots": [(37777, "cat"), (87038, "cat"), (174482, "dog"), (252219, "dog")], "absent": [(397133, "dog"), (6818, "cat")]},
}

names = st.sets(st.sampled_from(["cat", "dog", "cow"]))
pools = st.dictionaries(st.integers(0, 10**12), names, min_size=1, max_size=30)


def an_order_of(shown: Shown, seed: int) -> dict[int, set[str]]:
    return dict(random.Random(seed).sample(list(shown.items()), len(shown)))


@given(shots=st.integers(1, 4), negatives=st.sampled_from([0.0, 0.25, 1.0]), seed=st.integers(0, 99))
def test_k_shot_takes_k_new_images_a_category_and_the_asked_share_of_negatives(shots: int, negatives: float, seed: int) -> None:
    pairs = k_shot(SHOWN, CATEGORIES, shots=shots, seed=seed)
    others = absent(LACKING, pairs, share=negatives, seed=seed)
    assert [sum(name == c for _, name in pairs) for c in CATEGORIES] == [shots] * 10
    assert all(name in SHOWN[i] for i, name in pairs) and not any(name in SHOWN[i] for i, name in others)
    assert len(others) == round(negatives * 10 * shots)
    assert len({i for i, _ in pairs + others}) == len(pairs + others)


@given(pools, st.integers(1, 4), st.integers(0, 99), st.integers())
def test_a_split_does_not_depend_on_the_order_of_the_images(shown: Shown, shots: int, seed: int, order: int) -> None:
    kinds = sorted(set().union(*shown.values()))
    try:
        pairs = k_shot(shown, kinds, shots=shots, at_most=True, seed=seed)
    except ValueError as error:  # there is nothing at all
        assert "no image shows any of" in str(error) and not kinds
        return
    other = an_order_of(shown, order)
    assert k_shot(other, kinds, shots=shots, at_most=True, seed=seed) == pairs
    lacking = {i: {"cat", "dog", "cow"} - names for i, names in shown.items()}
    for share in (0.1, 0.5):
        try:
            others = absent(lacking, pairs, share=share, seed=seed)
        except ValueError as error:
            assert "are left; ask for fewer" in str(error)
            continue
        assert absent(an_order_of(lacking, order), pairs, share=share, seed=seed) == others


@given(pools, st.integers(0, 99), st.integers())
def test_a_further_image_changes_a_split_by_itself_alone(shown: Shown, seed: int, new: int) -> None:
    """Images keep their places among one another: one that is added or taken out moves no other."""
    before = shuffled(shown, Role.SHOTS, seed)
    assert [i for i in shuffled([*shown, f"new {new}"], Role.SHOTS, seed) if i in shown] == before
    assert sorted(before) == sorted(shown)


def test_seeds_and_roles_give_splits_of_their_own() -> None:
    draws = [tuple(k_shot(SHOWN, CATEGORIES, shots=2, seed=seed)) for seed in range(20)]
    assert len(set(draws)) == 20
    orders = {tuple(shuffled(SHOWN, role, *numbers)) for role in (Role.SHOTS, Role.NEGATIVES) for numbers in ((0,), (1,), (0, 0), (1, 0))}
    assert len(orders) == 8


def test_every_image_has_the_same_chance() -> None:
    first = [k_shot({i: {"cat"} for i in range(10)}, ["cat"], shots=1, seed=seed)[0][0] for seed in range(2000)]
    assert all(140 < first.count(i) < 260 for i in range(10))


def golden(seed: int) -> dict[str, Any]:
    pairs = k_shot(SMALL, ["cat", "dog"], shots=2, seed=seed)
    return {"shots": pairs, "absent": absent({i: {"cat", "dog"} - names for i, names in SMALL.items()}, pairs, share=0.5, seed=seed)}


@pytest.mark.parametrize("seed", GOLDEN)
def test_a_split_is_what_it_ever_was(seed: int) -> None:
    assert golden(seed) == GOLDEN[seed]


def test_a_split_does_not_depend_on_the_hashes_of_a_process() -> None:
    program = f"import json; from test_few_shot import golden; print(json.dumps([golden(seed) for seed in {list(GOLDEN)}]))"
    environment = os.environ | {"PYTHONHASHSEED": "31337"}
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(list(GOLDEN.values())))


def test_a_split_needs_no_stream_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers may change with its version."""
    monkeypatch.setattr("visual_rft.seeding.default_rng", lambda *_: pytest.fail("a stream was drawn from"))
    assert golden(0) == GOLDEN[0]


def test_more_shots_than_images_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ValueError, match=r"task\.shots=50: only \d+ unused images show '\w+'; ask for at most \d+ shots"):
        k_shot(SHOWN, CATEGORIES, shots=50, seed=0)
    with pytest.raises(ValueError, match=r"task\.shots=1: only 0 unused images show 'cow'; leave that category out"):
        k_shot(SHOWN, ["cow"], shots=1, seed=0)
    with pytest.raises(ValueError, match=r"task\.negatives: 300 images without some category are wanted and \d+ are left"):
        absent(LACKING, k_shot(SHOWN, CATEGORIES, shots=3, seed=0), share=10, seed=0)


@given(pools, st.integers(1, 4), st.integers(0, 99))
def test_at_most_takes_what_there_is_of_the_same_order(shown: Shown, shots: int, seed: int) -> None:
    there = sum("cat" in names for names in shown.values())
    if not there:
        with pytest.raises(ValueError, match=rf"task\.shots={shots}: no image shows any of cat; give other data, or other categories"):
            k_shot(shown, ["cat"], shots=shots, at_most=True, seed=seed)
        return
    pairs = k_shot(shown, ["cat"], shots=shots, at_most=True, seed=seed)
    assert len(pairs) == min(shots, there)
    assert pairs == k_shot(shown, ["cat"], shots=len(pairs), seed=seed), "and where there is enough it changes nothing"
    assert pairs == k_shot(shown, ["cat"], shots=there, seed=seed)[:shots], "fewer shots are among more"


@given(pools)
def test_all_there_are_is_each_image_with_each_of_its_categories(shown: Shown) -> None:
    pairs = every(shown, ["cow", "cat"])
    assert sorted(pairs) == sorted((i, name) for i, names in shown.items() for name in names - {"dog"})


def a_split(seed: int = 0) -> list[Example]:
    return [example(POOL[i], name, Style()) for i, name in k_shot(SHOWN, CATEGORIES, shots=2, seed=seed)]


def test_a_fingerprint_tells_splits_apart() -> None:
    split = a_split()
    assert fingerprint(split) == fingerprint(a_split()) != fingerprint(a_split(1))
    assert fingerprint(split) != fingerprint(split[::-1])
    other = replace(split[0], images=(StoredImage.of(split[0].asked_about.id, Image.new("RGB", (64, 64))),))
    assert fingerprint(split) != fingerprint([other, *split[1:]]), "the pixels count"
    assert fingerprint(split) != fingerprint([replace(split[0], question="?"), *split[1:]])


# The file


def test_what_is_written_is_read_back() -> None:
    split = a_split()
    written = split_of(split, {"task": "t", "shots": 2, "seed": 0})
    assert list(written) == ["task", "shots", "seed", "fingerprint", "examples"]
    assert written["examples"][0] == {
        "image": split[0].asked_about.id,
        "file": split[0].asked_about.name,
        "subject": split[0].subject,
        "sha256": split[0].asked_about.digest(),
    }
    assert written["fingerprint"] == split_of(split, {})["fingerprint"] != split_of(split[::-1], {})["fingerprint"]


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (DETECTION, DIGITS),
        (replace(DETECTION, shots=None, negatives=0.0), DigitOptions(20, 1, 1, 3)),
        (ClassificationOptions(**COMMON, categories=list(CATEGORIES), kind="digit"), DigitOptions(200, 1, 1, 1)),
        (GroundingOptions(**COMMON), DigitOptions(200, 1, 2, 3)),
    ],
)
def test_a_split_given_back_is_the_same_examples(options: TaskOptions, data: DigitOptions, tmp_path: Path) -> None:
    """Whatever the seed or the shots say then."""
    drawn = workload.train_examples(options, data, lambda _: NORM1000)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(workload.split(options, drawn)))
    given_back = workload.train_examples(replace(options, split=str(file), shots=7, split_seed=0), data, lambda _: NORM1000)
    assert given_back == drawn and fingerprint(given_back) == fingerprint(drawn)
    assert workload.split(options, given_back) == workload.split(options, drawn)


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    content = split_of(a_split()[:3], {"task": "t"})
    change(content)
    return json.dumps(content)


def signed(change: Callable[[dict[str, Any]], object]) -> str:
    """The same by somebody who meant it."""
    content = split_of(a_split()[:3], {"task": "t"})
    change(content)
    del content["fingerprint"]
    return json.dumps(content)


FORM = "not of the form {"
REFUSED: dict[str, tuple[str | None, str]] = {
    "no file": (None, "s.json: No such file or directory; "),
    "no JSON": ('{"examples": [', "s.json: not JSON ("),
    "a list": ("[]", "s.json: no list of `examples`; write {"),
    "no examples": ("{}", "s.json: no list of `examples`; write {"),
    "an empty list": ('{"examples": []}', "s.json: no list of `examples`; write {"),
    "an edited subject": (
        edited(lambda c: c["examples"][1].update(subject="cow")),
        "s.json: its fingerprint is not that of its examples; copy it again",
    ),
    "a row taken out": (edited(lambda c: c["examples"].pop()), "s.json: its fingerprint is not that of its examples"),
    "another order": (edited(lambda c: c["examples"].reverse()), "s.json: its fingerprint is not that of its examples"),
    "an edited fingerprint": (edited(lambda c: c.update(fingerprint="0" * 64)), "s.json: its fingerprint is not that of its examples"),
    "a fingerprint that is none": (edited(lambda c: c.update(fingerprint=None)), "s.json: its fingerprint is not that of its examples"),
    "unknown image": (
        signed(lambda c: c["examples"][1].update(image=99999)),
        "s.json, example 2: the training data have no image 99999; give the data",
    ),
    "another image": (signed(lambda c: c["examples"][2].update(sha256="0" * 64)), "s.json, example 3: image "),
    "image as text": (signed(lambda c: c["examples"][0].update(image="7")), f"s.json, example 1: {FORM}"),
    "image true": (signed(lambda c: c["examples"][0].update(image=True)), f"s.json, example 1: {FORM}"),
    "no image": (signed(lambda c: c["examples"][0].pop("image")), f"s.json, example 1: {FORM}"),
    "no subject": (signed(lambda c: c["examples"][2].pop("subject")), f"s.json, example 3: {FORM}"),
    "not an object": (signed(lambda c: c["examples"].append(7)), f"s.json, example 4: {FORM}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_split_of_these_images_is_refused_by_file_and_row(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, said = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("s.json").write_text(content)
    with pytest.raises(ValueError) as refusal:
        read_split("s.json", {i: image.stored for i, image in POOL.items()})
    line = str(refusal.value)
    assert line.startswith(said) and "\n" not in line
    assert case != "another image" or "is another one than in the split; give the data the split was drawn from" in line


def test_a_split_without_its_checks_is_taken_as_it_is(tmp_path: Path) -> None:
    """One writes it by hand."""
    file = tmp_path / "s.json"
    file.write_text('{"examples": [{"image": 3, "subject": "cat"}, {"image": 0, "subject": ""}]}')
    assert read_split(str(file), {i: image.stored for i, image in POOL.items()}) == [(3, "cat"), (0, "")]


def test_an_instruction_that_the_image_does_not_have_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"examples": [{"image": 3, "subject": "the purple digit"}]}')
    options = replace(GroundingOptions(**COMMON), split=str(file))
    with pytest.raises(ValueError, match="has no instruction 'the purple digit'; give the data the split was drawn from"):
        workload.train_examples(options, DigitOptions(20, 1, 2, 3), lambda _: NORM1000)


def test_a_run_gives_its_split_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = ["steps=1", "prompts_per_step=2", "algorithm.group_size=2", "algorithm.max_completion_tokens=8", "data.test_images=1"]
    assert train.main([*small, "task.shots=1", "task.split_seed=5", f"hydra.run.dir={tmp_path / 'one'}"]) == 0
    assert train.main([*small, f"task.split={tmp_path / 'one/split.json'}", "task.split_seed=5", f"hydra.run.dir={tmp_path / 'other'}"]) == 0
    one, other = (json.loads((tmp_path / name / "split.json").read_text()) for name in ("one", "other"))
    assert one["fingerprint"] == other["fingerprint"] and one["examples"] == other["examples"] and len(one["examples"]) == 11
    rollouts = [(tmp_path / name / "rollouts.jsonl").read_bytes() for name in ("one", "other")]
    assert rollouts[0] == rollouts[1]
    capfd.readouterr()
    changed = ["task.split_seed=6", f"task.split={tmp_path / 'one/split.json'}"]  # other scenes
    assert train.main([*small, *changed, f"hydra.run.dir={tmp_path / 'third'}"]) == 2
    line = capfd.readouterr().err
    assert "split.json, example 1: image " in line and "is another one than in the split" in line and line.count("\n") == 1
    assert not (tmp_path / "third").exists()
