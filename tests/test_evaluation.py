"""Evaluations: what is asked first, what is kept of one that is interrupted, several ranks: `pytest tests/test_evaluation.py`."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from many import ranks

from visual_rft import evaluate as entry
from visual_rft import train, workload
from visual_rft.distributed import ALONE, Preempted, World
from visual_rft.evaluation import Asker, Evaluation, evaluate, gallery, judge, outcome, until
from visual_rft.frames import NORM1000
from visual_rft.resuming import find_run, is_running
from visual_rft.rewards.options import RewardOptions
from visual_rft.sources.digits import CATEGORIES, DigitOptions
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.task import Exam
from visual_rft.tasks.wording import Wording, completion, detection_answer
from visual_rft.tracking.runfolder import KeptAnswers, RunFolder
from visual_rft.vocabulary import Completion, Detection, Example

IMAGES = 3
OPTIONS = DetectionOptions(
    name="pets",
    shots=1,
    at_most=False,
    split_seed=0,
    split=None,
    wording=Wording.terse_1,
    thinking=True,
    categories=list(CATEGORIES),
    trained=None,
    negatives=0.0,
    present=Present.predicted,
    presence=None,
    iou_threshold=0.5,
)
TASK = workload.task(OPTIONS, RewardOptions())


def exam_of(present: Present = Present.predicted, **changes: Any) -> Exam:
    return workload.test_exam(replace(OPTIONS, present=present, **changes), DigitOptions(1, IMAGES, 1, 3), lambda _: NORM1000)


def said(example: Example) -> str:
    """By one who draws each box half as wide, and sees ones in every image."""
    if example.id.endswith("?"):
        return "Yes." if example.truth.boxes or example.subject == "one" else "No."
    boxes = [(x1, y1, (x1 + x2) // 2, y2) for x1, y1, x2, y2 in example.truth.boxes]
    return completion("hm", detection_answer([Detection(box, 0.9) for box in boxes]))


class Asked:
    """A model that answers so, the last question first, and up to so many questions; remembers what it was asked."""

    def __init__(self, up_to: int = 10**6, said: Callable[[Example], str] = said) -> None:
        self.ids: list[str] = []
        self.up_to, self.said = up_to, said

    def __call__(self, questions: Sequence[Example]) -> Iterator[tuple[int, Completion]]:
        for number in reversed(range(len(questions))):
            if len(self.ids) == self.up_to:
                return
            self.ids.append(questions[number].id)
            nothing = torch.empty(0)
            yield number, Completion(nothing, nothing, self.said(questions[number]), True)


class Remembered(dict[str, str]):
    """Answers that are kept in memory."""

    def known(self) -> dict[str, str]:
        return dict(self)

    def keep(self, question: str, text: str) -> None:
        assert question not in self, "kept a second time"
        self[question] = text


def run(exam: Exam, ask: Asker, answers: Any = None, world: World = ALONE) -> Evaluation:
    return evaluate(TASK, exam, ask, lambda _: None, answers, world)


def same(one: Evaluation, other: Evaluation) -> bool:
    return replace(one, seconds=0.0) == replace(other, seconds=0.0)


# What is asked first


def test_the_model_is_asked_first_and_what_it_denies_is_not_asked() -> None:
    exam, asked = exam_of(), Asked()
    found = run(exam, asked)
    denied = [e for e in exam.questions if not e.truth.boxes and e.subject != "one"]
    assert denied and {*asked.ids[: len(exam.questions)]} == {f"{e.id}?" for e in exam.questions}, "all of them before any other"
    assert {*asked.ids[len(exam.questions) :]} == {e.id for e in exam.questions} - {e.id for e in denied}
    assert {e.id: text for e, text in zip(exam.questions, found.texts, strict=True) if e in denied} == dict.fromkeys(
        (e.id for e in denied), "<think>  </think> <answer> No Objects </answer>"
    )
    assert [text for e, text in zip(exam.questions, found.texts, strict=True) if e not in denied] == [
        said(e) for e in exam.questions if e not in denied
    ]
    assert found.screened == {f"{e.id}?": said(replace(e, id=f"{e.id}?")) for e in exam.questions} and not found.scores.refusals


def test_without_thinking_what_is_denied_is_answered_without() -> None:
    exam = exam_of(thinking=False)
    found = run(exam, Asked(said=lambda e: "no" if e.id.endswith("?") else "never asked"))
    assert set(found.texts) == {"<answer> No Objects </answer>"} and found.scores.values["well-formed"] == 100


@pytest.mark.parametrize("answer", ["Yes", "", "maybe", "\ud800", "<answer>7</answer>"])
def test_whatever_is_no_clear_no_is_asked_on(answer: str) -> None:
    """So the three protocols meet: asked everything, a model is worth what it is under `all`."""
    asked = Asked(said=lambda e: answer if e.id.endswith("?") else said(e))
    found = run(exam_of(), asked)
    every = run(exam_of(Present.all), Asked())
    assert found.scores == every.scores and found.texts == every.texts and len(asked.ids) == 2 * len(found.texts)


def test_one_who_denies_rightly_and_nothing_else_is_asked_what_is_there() -> None:
    """The other end: predictions that are the truth give the questions of `ground_truth`, and those answers their average precision."""
    asked = Asked(said=lambda e: ("yes" if e.truth.boxes else "no") if e.id.endswith("?") else said(e))
    found, present = run(exam_of(), asked), run(exam_of(Present.ground_truth), Asked())
    assert {i for i in asked.ids if not i.endswith("?")} == {e.id for e in exam_of(Present.ground_truth).questions}
    assert {name: found.scores.values[name] for name in ("AP", "AP50", "AP75", "mean IoU")} == {
        name: present.scores.values[name] for name in ("AP", "AP50", "AP75", "mean IoU")
    }
    assert found.scores.values["rightly empty"] == 100 and "rightly empty" not in present.scores.values


def test_recorded_answers_to_what_is_asked_first_are_taken(tmp_path: Path) -> None:
    first = run(exam_of(), Asked())
    RunFolder(tmp_path).write_answers("presence", first.screened)
    again, asked = exam_of(presence=str(tmp_path / "answers_presence.jsonl")), Asked()
    assert same(run(again, asked), first)
    assert not any(i.endswith("?") for i in asked.ids) and asked.ids
    known = Asked()
    assert same(run(exam_of().knowing(first.screened), known), first) and known.ids == asked.ids
    contrary = exam_of().knowing(dict.fromkeys(first.screened, "no"))
    nobody = Asked()
    assert run(contrary, nobody).scores.values["AP"] == 0 and nobody.ids == [], "what is recorded counts, whatever the model would say"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "p.jsonl: empty; give"),
        ([{"example": "0/one?", "completion": "no"}], "29 of 30 questions have no answer, '0/zero?' first"),
        ([{"example": "0/one", "completion": "no"}], "p.jsonl, line 1: example '0/one' is no question of this evaluation"),
    ],
)
def test_recorded_answers_to_other_questions_are_refused(
    lines: list[Mapping[str, str]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"^p\.jsonl") as refused:
        exam_of(presence="p.jsonl")
    assert said in str(refused.value)


# Interrupted


@given(stop=st.lists(st.integers(0, 25), max_size=4), present=st.sampled_from(Present))
def test_an_evaluation_goes_on_where_it_was_interrupted(stop: list[int], present: Present) -> None:
    exam, kept, asked = EXAMS[present], Remembered(), list[str]()
    whole = Asked()
    expected = run(exam, whole)
    for up_to in stop:
        part, before = Asked(up_to), set(kept)
        if len(whole.ids) - len(before) <= up_to:
            break
        with pytest.raises(Preempted, match="the same command with resume=auto goes on with it"):
            run(exam, part, kept)
        assert set(part.ids) == set(kept) - before and len(part.ids) == up_to
        asked += part.ids
    last = Asked()
    assert same(run(exam, last, kept), expected)
    assert sorted(asked + last.ids) == sorted(whole.ids), "each question once, over all of them"


EXAMS = {present: exam_of(present) for present in Present}


def test_progress_counts_every_question_once_known_or_denied_or_asked() -> None:
    for present, exam in EXAMS.items():
        for up_to in (0, 2):
            kept, done = Remembered(), list[int]()
            if up_to:
                with pytest.raises(Preempted):
                    run(exam, Asked(up_to), kept)
            evaluate(TASK, exam, Asked(), done.append, kept)
            assert sum(done) == exam.asked_at_most == len(exam.questions) * (2 if present is Present.predicted else 1)


def test_a_signal_ends_an_evaluation_after_the_answer_that_was_under_way() -> None:
    asked, kept = Asked(), Remembered()
    with pytest.raises(Preempted):
        run(EXAMS[Present.all], until(lambda: len(kept) >= 3, asked), kept)
    assert len(kept) == 3
    assert same(run(EXAMS[Present.all], until(lambda: False, Asked()), kept), run(EXAMS[Present.all], Asked()))


def test_kept_answers_are_on_disk_and_a_half_of_a_line_is_asked_again(tmp_path: Path) -> None:
    """Killed in the middle of a line, another time with a file for each of two ranks."""
    folder, exam = RunFolder(tmp_path), EXAMS[Present.all]
    for rank, up_to in ((0, 5), (1, 4), (0, 3)):
        with pytest.raises(Preempted):
            run(exam, Asked(up_to), KeptAnswers(folder, "evaluation", rank))
        with (tmp_path / f".answers_evaluation.{rank}.jsonl").open("a") as file:
            file.write('{"example": "0/ze')
    KeptAnswers(folder, "other", 0).keep("0/zero", "of another evaluation")
    asked = Asked()
    found = run(exam, asked, KeptAnswers(folder, "evaluation", 0))
    assert len(asked.ids) == len(exam.questions) - 12 and same(found, run(exam, Asked()))
    folder.write_answers("evaluation", {e.id: text for e, text in zip(exam.questions, found.texts, strict=True)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".answers_other.0.jsonl", "answers_evaluation.jsonl"]
    assert KeptAnswers(folder, "evaluation", 0).known() == {}


@pytest.mark.parametrize("text", ["", "\ud800", "a\nb\u2028c\x85", '"', "\x00"])
def test_any_answer_is_kept_as_it_is(text: str, tmp_path: Path) -> None:
    kept = KeptAnswers(RunFolder(tmp_path), "evaluation", 0)
    kept.keep("0/one", text)
    kept.keep("0/two", "x")
    assert KeptAnswers(RunFolder(tmp_path), "evaluation", 0).known() == {"0/one": text, "0/two": "x"}


# Several ranks


def of_ranks(world: World, folder: str, stops: Sequence[Sequence[int]]) -> tuple[Evaluation, list[list[str]]]:
    """Interrupted on each rank after so many answers, time after time, and then not: the outcome and what this rank was asked each time."""
    exam, asked = exam_of(), list[list[str]]()
    for stop in stops:
        part = Asked(stop[world.rank])
        with pytest.raises(Preempted):
            run(exam, part, KeptAnswers(RunFolder(Path(folder)), "evaluation", world.rank), world)
        asked.append(part.ids)
    last = Asked()
    found = run(exam, last, KeptAnswers(RunFolder(Path(folder)), "evaluation", world.rank), world)
    return found, [*asked, last.ids]


@pytest.mark.parametrize("stops", [[], [(4, 10**6), (3, 0)], [(10**6, 2), (10**6, 3)]])
def test_two_ranks_find_what_one_does_interrupted_or_not(stops: Sequence[Sequence[int]], tmp_path: Path) -> None:
    """Even where a signal reaches one of them alone."""
    whole = Asked()
    expected = run(exam_of(), whole)
    (found, mine), (other, theirs) = ranks(2, of_ranks, str(tmp_path), stops)
    assert same(found, expected) and same(other, found)
    assert sorted(i for ids in mine + theirs for i in ids) == sorted(whole.ids), "each question once, on one rank"
    if not stops:
        assert abs(len(mine[0]) - len(theirs[0])) <= 2


# The entries


SMALL = ["data.test_images=2", "task.present=predicted", "algorithm.max_completion_tokens=12", "task.categories=[one,two,five]"]


def test_the_entry_goes_on_with_an_evaluation_that_a_signal_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked, answer = list[str](), entry.answer

    def after(count: int) -> None:
        def stopping(policy: Any, processor: Any, questions: Sequence[Example], **options: Any) -> Iterator[tuple[int, Completion]]:
            for number, said in answer(policy, processor, questions, **options):
                asked.append(questions[number].id)
                if len(asked) == count:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield number, said

        monkeypatch.setattr(entry, "answer", stopping)

    after(-1)
    assert entry.main([*SMALL, "hydra.run.dir=whole"]) == 0
    whole, asked[:] = list(asked), []
    after(4)
    code = entry.main([*SMALL, "hydra.run.dir=one", "resume=auto"])
    assert code not in (0, 2) and len(asked) == 4 and not Path("one/summary.json").exists()
    assert "the same command with resume=auto goes on with it" in capfd.readouterr().err
    after(-1)
    assert entry.main([*SMALL, "hydra.run.dir=two", "resume=auto"]) == 0
    assert sorted(asked) == sorted(whole), "the rest alone"
    assert not Path("two").exists() and {path.name for path in Path("one").iterdir()} == {path.name for path in Path("whole").iterdir()}
    summaries = [json.loads(Path(name, "summary.json").read_text()) | {"seconds": 0} for name in ("one", "whole")]
    assert summaries[0] == summaries[1]
    for name in ("answers_evaluation.jsonl", "answers_presence.jsonl", "coco_results.json"):
        assert Path("one", name).read_bytes() == Path("whole", name).read_bytes()
    asked.clear()
    assert entry.main([*SMALL, "hydra.run.dir=one", "resume=auto"]) == 0 and asked == []
    assert "one: this evaluation has finished; nothing is left to do\n" in capfd.readouterr().err


def test_an_evaluation_that_goes_on_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with resume=auto, started together."""
    answer, held = entry.answer, list[bool]()

    def meanwhile(*given: Any, **options: Any) -> Any:
        held.append(is_running(tmp_path))
        with pytest.raises(ValueError, match="its run is still going on"):
            find_run(tmp_path, "")
        return answer(*given, **options)

    monkeypatch.setattr(entry, "answer", meanwhile)
    assert entry.main([*SMALL, f"hydra.run.dir={tmp_path}", "resume=auto"]) == 0
    assert held and all(held) and not is_running(tmp_path)


def test_a_presence_file_of_an_evaluation_is_given_to_another(tmp_path: Path) -> None:
    assert entry.main([*SMALL, f"hydra.run.dir={tmp_path / 'one'}"]) == 0
    again = [*SMALL, f"task.presence={tmp_path / 'one/answers_presence.jsonl'}", f"hydra.run.dir={tmp_path / 'two'}"]
    assert entry.main(again) == 0
    assert (tmp_path / "one/answers_evaluation.jsonl").read_bytes() == (tmp_path / "two/answers_evaluation.jsonl").read_bytes()


def test_training_asks_what_is_there_before_and_takes_it_after(tmp_path: Path) -> None:
    """What a run gains is not that it denies more."""
    small = [*SMALL, "steps=1", "prompts_per_step=2", "algorithm.group_size=2", "task.shots=1"]
    assert train.main([*small, f"hydra.run.dir={tmp_path}"]) == 0
    before, after, presence = (
        [json.loads(line) for line in (tmp_path / f"answers_{name}.jsonl").read_text().splitlines()] for name in ("before", "after", "presence")
    )
    assert len(before) == len(after) == len(presence) == 6
    assert [line["example"] + "?" for line in before] == [line["example"] for line in presence]


def test_the_outcome_says_what_one_answer_is_worth_and_how_sure_its_change_is() -> None:
    """Boxes half as wide, then the right ones: each of them gains a half, whatever the image; nothing is gained where nothing is."""
    exam = exam_of(Present.all)
    right = [completion("hm", detection_answer([Detection(box, 0.9) for box in one.truth.boxes])) for one in exam.questions]
    before, after = (judge(TASK, exam, texts, 0.0) for texts in ([said(one) for one in exam.questions], right))
    told = outcome(exam.questions, before, after)["one_answer"]
    shown = [bool(one.truth.boxes) for one in exam.questions]
    assert told["after"] == 100 and told["before"] == pytest.approx(100 - 50 * sum(shown) / len(shown), abs=1)
    of_image: dict[int, float] = {}
    for one, gain in zip(exam.questions, shown, strict=True):
        of_image[one.asked_about.id] = of_image.get(one.asked_about.id, 0.0) + gain * 50 - 50 * sum(shown) / len(shown)
    spread = (IMAGES / (IMAGES - 1) * sum(off**2 for off in of_image.values())) ** 0.5 / len(shown)
    assert told["half_interval_95"] == pytest.approx(4.303 * spread, abs=0.5)


def test_the_gallery_shows_every_image_once_before_any_twice() -> None:
    exam = exam_of(Present.all)
    shown = gallery(exam.questions, {"after": judge(TASK, exam, [said(one) for one in exam.questions], 0.0)}, IMAGES + 1)
    assert len({picture.image.tobytes() for picture in shown[:IMAGES]}) == IMAGES and all(picture.truth.boxes for picture in shown[:IMAGES])
    assert len(gallery(exam.questions, {}, 1000)) == len(exam.questions)
