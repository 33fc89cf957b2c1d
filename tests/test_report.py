"""The HTML report: `pytest tests/test_report.py`."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visual_rft.frames import Resized
from visual_rft.tracking._curves import curve, stages
from visual_rft.tracking._rollouts import Rollouts
from visual_rft.tracking._svg import PICTURE_SIDE
from visual_rft.tracking.pictures import Picture, labels
from visual_rft.tracking.report import Report, write_report
from visual_rft.tracking.runfolder import RunFolder
from visual_rft.vocabulary import (
    Answer,
    ClassAnswer,
    ClassTruth,
    Detection,
    DetectionAnswer,
    DetectionTruth,
    GroundingAnswer,
    GroundingTruth,
    Reason,
    Refusal,
)

VOID = {"meta", "br", "img", "input"}
HOSTILE = '"><script src="http://evil/x.js">alert(1)</script></pre><img src=x onerror=alert(1)>&amp;\x00\ud800'

TRUE_BOX, DRAWN_BOX = (250.0, 500.0, 500.0, 1000.0), (0.0, 0.0, 500.0, 1000.0)  # IoU 0.25
DETECTION = Picture(
    image=Image.new("RGB", (64, 32), "purple"),
    question="Where is the seven?",
    truth=DetectionTruth((TRUE_BOX,)),
    answers={"before": Refusal(Reason.TRUNCATED, "<think>"), "after": DetectionAnswer((Detection(DRAWN_BOX, 0.9),))},
    texts={"before": "before text", "after": "after text"},
)
CLASS = replace(
    DETECTION,
    image=Image.new("L", (28, 28)),
    question="Which digit?",
    truth=ClassTruth("seven"),
    answers={"before": ClassAnswer("one"), "after": ClassAnswer("Seven.")},
)
GROUNDING = replace(DETECTION, truth=GroundingTruth(TRUE_BOX), answers={"before": GroundingAnswer(DRAWN_BOX), "after": GroundingAnswer(TRUE_BOX)})

BEFORE = {"AP": 5.6, "mean IoU": 20.0, "only before": 1.0, "by category": {"seven": None, "one": 2.0}, "refused": {"truncated": 11}}
AFTER = {"AP": 21.0, "mean IoU": 19.0, "by category": {"seven": 1.0, "one": 4.5}, "refused": {"bad_box": 13}}
COST = {"steps": 3, "seconds": 312.0, "seed": 7}
SUMMARY = {"task": "fsod_digits", "model": "miniature", "metric": "AP", "before": 5.6, "after": 21.0}
SUMMARY |= {"evaluation_before": BEFORE, "evaluation_after": AFTER, **COST}
METRICS = [
    {"step": 0, "eval/AP": 5.6},
    {"step": 1, "reward/mean": 0.0, "loss/kl": 0.0, "policy/clip_fraction": 0.0, "refused/truncated": 0.5, "time/step": 1.0},
    {"step": 2, "reward/mean": 0.5, "loss/kl": None, "policy/clip_fraction": 0.0},
    {"step": 3, "reward/mean": 1.0, "loss/kl": 0.1, "policy/clip_fraction": 0.0, "refused/truncated": 0.25, "eval/AP": 21.0},
]


def rollout(step: int, reward: float | None, completion: str = "text") -> dict:
    return {
        "step": step, "example": "e", "completion": completion, "answer": None, "refused": "truncated", "rewards": {"iou": reward, "format": 0.5},
        "reward": reward, "advantage": 0.0, "finished": True, "tokens": 5,
    }  # fmt: skip


GROUPS = {step: [[rollout(step, reward, f"{step}: {reward}") for reward in (0.5, 3.0, 1.0, None, 0.0, 2.5)]] for step in (1, 2, 3)}
ROLLOUTS = Rollouts(GROUPS, steps=3, groups=3, completions=18)
REPORT = Report(SUMMARY, "seed: 7\n", METRICS, ROLLOUTS, [DETECTION])


class Page(HTMLParser):
    """The elements, with their attributes, and the visible text; asserts that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]


def made(path: Path, report: Report) -> str:
    write_report(path / "report.html", report)
    return (path / "report.html").read_text()


def page(path: Path, report: Report = REPORT) -> Page:
    return Page(made(path, report))


def test_the_page_needs_no_network_and_lets_no_script_run_but_its_own(tmp_path: Path) -> None:
    found = page(tmp_path)
    text = re.sub('base64,[^"]*', "", (tmp_path / "report.html").read_text())
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text.replace("http://www.w3.org/2000/svg", "")), "the name of SVG is no address"
    sources = [value for _, attributes in found.elements for key, value in attributes.items() if key in ("src", "href")]
    assert sources and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    policy = next(meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    island, script = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    assert [attributes.get("type") for attributes in found.all("script")] == ["application/json", None] and json.loads(island)
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_same_report_is_the_same_page(tmp_path: Path) -> None:
    assert made(tmp_path, REPORT) == made(tmp_path, REPORT)


def test_boxes_are_drawn_where_they_are_whatever_their_frame(tmp_path: Path) -> None:
    """Every answer and the truth beneath it, in pixels of the image as the model was shown it."""
    scale = np.array([56 / 1000, 28 / 1000] * 2)
    (true,), (drawn,) = (tuple(map(tuple, (np.array([box]) * scale).tolist())) for box in (TRUE_BOX, DRAWN_BOX))
    pixels = replace(
        DETECTION,
        truth=DetectionTruth((true,)),
        answers={"before": Refusal(Reason.TRUNCATED, "<think>"), "after": DetectionAnswer((Detection(drawn, 0.9),))},
        frame=Resized(56, 28),
    )
    pages = []
    for picture in (DETECTION, pixels):
        write_report(tmp_path / "report.html", replace(REPORT, pictures=[picture]))
        pages.append((tmp_path / "report.html").read_text())
    assert pages[0] == pages[1] and "IoU 0.25" in pages[0]


def test_hostile_text_is_shown_and_never_becomes_an_element(tmp_path: Path) -> None:
    scores = {HOSTILE: 1.0, "by category": {HOSTILE: 1.0}, "refused": {HOSTILE: 1}, "confusion": {HOSTILE: {"rose": 1}, "rose": {HOSTILE: 2}}}
    picture = Picture(
        image=DETECTION.image,
        question=HOSTILE,
        truth=ClassTruth(HOSTILE),
        answers={HOSTILE: ClassAnswer(HOSTILE), "after": Refusal(Reason.NOT_A_LIST, HOSTILE)},
        texts={HOSTILE: HOSTILE, "after": HOSTILE},
    )
    hostile = Report(
        summary=dict.fromkeys(("task", "model", "other"), HOSTILE) | {f"evaluation_{HOSTILE}": scores, "steps": HOSTILE, "seconds": 1.0},
        config_yaml=HOSTILE,
        metrics=[{"step": 1, "reward/mean": 1.0, HOSTILE: 1.0, f"refused/{HOSTILE}": 1.0}],
        rollouts=Rollouts({1: [[rollout(1, 1.0, HOSTILE) | {"example": HOSTILE, "refused": HOSTILE, "rewards": {HOSTILE: 1.0}}]]}, 1, 1, 1),
        pictures=[picture, replace(picture, truth=DETECTION.truth)],
        environment={"command": HOSTILE, "device_name": HOSTILE},
    )
    found = page(tmp_path, hostile)
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe", "object"}) and len(found.all("script")) == 2
    assert not any("src" in attributes for _, attributes in found.elements)
    assert HOSTILE in json.loads(found.scripts[0])["filters"] and "<" not in found.scripts[0], "a completion cannot leave the island"
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert found.text.count("<script src=") >= 30, "every one of them is there to read"


def curves(found: "Page") -> list[str]:
    return [svg["aria-label"] for svg in found.all("svg", **{"class": "curve"})]


def test_what_the_metrics_hold_is_drawn_rewards_first(tmp_path: Path) -> None:
    drawn = ["reward/mean", "loss/kl", "% of the rollouts, by reason", "seconds a step, by stage"]
    assert curves(page(tmp_path)) == drawn
    others = ["policy/lr", "new/one", "reward/iou", "loss/policy", "memory/peak_gb"]
    keys = [*others, "reward/mean", "reward/zero_std_fraction", "completion/length_mean", "policy/entropy"]
    drawn = ["reward/mean", "reward/iou", "reward/zero_std_fraction", "completion/length_mean", "loss/policy", "policy/entropy", "new/one"]
    found = page(tmp_path, replace(REPORT, metrics=[{"step": step} | dict.fromkeys(keys, 0.0) for step in (1, 2)]))
    assert curves(found) == [*drawn, "memory/peak_gb"], "the learning rate is no result"
    clipped = page(tmp_path, replace(REPORT, metrics=[*METRICS, {"step": 4, "policy/clip_fraction": 0.1}]))
    assert "policy/clip_fraction" in curves(clipped)


TIMES = {"time/rollout": 6.0, "time/update": 3.0, "time/step": 10.0}


def test_the_stages_of_a_step_add_up_to_it_the_longest_first(tmp_path: Path) -> None:
    times = [{"step": 0, "eval/AP": 1.0}, {"step": 1} | TIMES, {"step": 2} | TIMES]
    assert {stage: [value for _, value in points] for stage, points in stages(times).items()} == {
        "rollout": [6, 6],
        "update": [3, 3],
        "other": [1, 1],
    }
    assert "rollout6.00060.0update3.00030.0other1.00010.0" in page(tmp_path, replace(REPORT, metrics=times)).text


def test_only_a_refusal_is_zero_where_it_is_not_named_and_only_in_training() -> None:
    assert curve(METRICS, "refused/truncated") == [(1, 0.5), (2, 0.0), (3, 0.25)]
    assert curve(METRICS, "eval/AP") == [(0, 5.6), (3, 21.0)] and curve(METRICS, "loss/kl") == [(1, 0.0), (2, None), (3, 0.1)]


def test_a_number_that_never_was_finite_is_named(tmp_path: Path) -> None:
    lost = page(tmp_path, replace(REPORT, metrics=[{"step": 1, "loss/kl": None}, {"step": 2, "loss/kl": float("nan")}])).text
    assert "loss/kl" in lost and "no finite value" in lost


def test_boxes_sit_at_their_place_in_the_picture(tmp_path: Path) -> None:
    found = page(tmp_path)
    width, height = PICTURE_SIDE, PICTURE_SIDE // 2  # of an image of 64 × 32
    truth = {"x": width / 4, "y": height / 2, "width": width / 4, "height": height / 2}
    drawn = [{key: float(box[key]) for key in truth} for box in found.all("rect", **{"class": "truth"})]
    assert drawn == [truth, truth], "in the picture before and in the one after"
    (after,) = found.all("rect", **{"class": "after"})
    assert [float(after[key]) for key in ("x", "y", "width", "height")] == [0, 0, width / 2, height]
    assert all(picture["viewbox"] == f"0 0 {width} {height}" for picture in found.all("svg", **{"class": "picture"}))
    assert not found.all("rect", **{"class": "before"}), "a refusal has no boxes"


@pytest.mark.parametrize("left", [0.0, 300.0, 600.0, 900.0])
def test_a_label_stays_inside_the_picture(tmp_path: Path, left: float) -> None:
    answer = DetectionAnswer((Detection((left, 0.0, left + 100, 100.0), 0.9),))
    (text,) = page(tmp_path, replace(REPORT, pictures=[replace(DETECTION, answers={"after": answer})])).all("text", **{"class": "after"})
    room = float(text["x"]) if text.get("text-anchor") == "end" else PICTURE_SIDE - float(text["x"])
    assert room > PICTURE_SIDE / 2 and float(text["y"]) > 12


def test_an_image_is_inlined_once_unchanged_when_small_and_bounded_when_large(tmp_path: Path) -> None:
    large = replace(DETECTION, image=Image.new("RGB", (3000, 1500)))
    found = page(tmp_path, replace(REPORT, pictures=[DETECTION, large]))
    small, reduced = (Image.open(io.BytesIO(base64.b64decode(image["href"].split(",")[1]))) for image in found.all("image"))
    assert small.tobytes() == DETECTION.image.tobytes() and reduced.size == (640, 320)
    assert ["style" in image for image in found.all("image")] == [True, False], "only a small canvas shows its pixels"
    assert [image["href"].split(";")[0] for image in found.all("image")] == ["data:image/png", "data:image/jpeg"]
    assert large.image.size == (3000, 1500), "the caller's image is left alone"
    assert {use["href"] for use in found.all("use")} == {f"#{image['id']}" for image in found.all("image")}


def test_images_of_all_sizes_and_modes_are_shown_in_their_shape(tmp_path: Path) -> None:
    sizes = [(1, 1), (1, 900), (900, 1), (64, 64), (640, 480), (480, 640)]
    pictures = [replace(DETECTION, image=Image.new(mode, size)) for size, mode in zip(sizes, ("RGB", "L", "RGBA", "P", "1", "CMYK"), strict=True)]
    found = page(tmp_path, replace(REPORT, pictures=pictures))
    shapes = [tuple(map(int, svg["viewbox"].split()[2:])) for svg in found.all("svg", **{"class": "picture"})]
    assert shapes[::2] == shapes[1::2] == [(320, 320), (1, 320), (320, 1), (320, 320), (320, 240), (240, 320)]


def answers(path: Path, *pictures: Picture) -> Page:
    return page(path, replace(REPORT, pictures=pictures))


def test_boxes_are_labelled_with_confidence_and_iou_and_refusals_named(tmp_path: Path) -> None:
    text = answers(tmp_path, DETECTION).text
    assert "after: 0.90 IoU 0.25" in text and "before: refused: truncated <think>" in text
    assert "before text" in text and "after text" in text and "truth:" not in text
    text = answers(tmp_path, GROUNDING).text
    assert "before: IoU 0.25" in text and "after: IoU 1.00" in text


def test_a_classification_says_its_words_beside_the_truth_over_one_image(tmp_path: Path) -> None:
    found = answers(tmp_path, CLASS)
    assert [words in found.text for words in ("truth: seven", "before: one", "after: Seven.")] == [True] * 3
    assert len(found.all("svg", **{"class": "picture"})) == 1 and not found.all("use") and not found.all("i", **{"class": "truth"})[1:]


def test_a_category_that_is_absent_is_named_so_and_a_box_for_it_meets_nothing(tmp_path: Path) -> None:
    absent = replace(DETECTION, truth=DetectionTruth(()))
    text = answers(tmp_path, replace(absent, answers=absent.answers | {"before": DetectionAnswer(())})).text
    assert [words in text for words in ("truth: No Objects", "before: No Objects", "after: 0.90 IoU 0.00")] == [True] * 3


def test_true_boxes_are_drawn_where_every_answer_is_refused(tmp_path: Path) -> None:
    refused = replace(DETECTION, answers=dict.fromkeys(DETECTION.answers, Refusal(Reason.NO_ANSWER)))
    assert len(answers(tmp_path, refused).all("rect", **{"class": "truth"})) == 2


def test_kinds_of_answers_go_together_on_one_page(tmp_path: Path) -> None:
    found = answers(tmp_path, DETECTION, CLASS, GROUNDING)
    assert len(found.all("image")) == 3 and len(found.all("rect", **{"class": "before"})) == 1 and len(found.all("rect", **{"class": "after"})) == 2


@pytest.mark.parametrize("picture", [DETECTION, CLASS, GROUNDING])
def test_one_answer_alone_is_drawn_as_the_last_one_is(tmp_path: Path, picture: Picture) -> None:
    alone = replace(picture, answers={"answer": picture.answers["after"]}, texts={"answer": "its text"})
    found = answers(tmp_path, alone)
    assert len(found.all("svg", **{"class": "picture"})) == 1 and "answer: " in found.text and "Completion answer" in found.text
    assert not found.all("rect", **{"class": "before"}) and not found.all("i", **{"class": "before"})
    assert len(found.all("rect", **{"class": "after"})) == len(picture.truth.boxes)


def test_labels_are_one_a_box_in_its_place() -> None:
    detections = [Detection(DRAWN_BOX, 0.5), Detection(TRUE_BOX, 1.0)]
    forward: Answer = DetectionAnswer(tuple(detections))
    assert labels(forward, [TRUE_BOX]) == ["0.50 IoU 0.25", "1.00 IoU 1.00"]
    assert labels(DetectionAnswer(tuple(detections[::-1])), [TRUE_BOX]) == labels(forward, [TRUE_BOX])[::-1]
    assert labels(forward, [(900.0, 0.0, 1000.0, 10.0), TRUE_BOX]) == labels(forward, [TRUE_BOX]), "the nearest counts"
    assert labels(ClassAnswer("seven"), []) == []


TITLES = (
    "Scores", "Answers to test questions", "Curves", "Rollouts", "Scores by category", "Taken for another", "Refusals", "Where the time goes",
    "Configuration",
)  # fmt: skip


def part(found: Page, title: str) -> str:
    """The text of one section."""
    following = [other for other in TITLES[TITLES.index(title) + 1 :] if other in found.text.split(title, 1)[1]]
    return found.text.split(title, 1)[1].split(following[0])[0] if following else found.text.split(title, 1)[1]


def test_the_first_screen_says_what_came_of_it_what_it_cost_and_how_to_do_it_again(tmp_path: Path) -> None:
    git = {"revision": "0123456789abcdef", "dirty": True}
    environment = {"command": "python -m visual_rft.train steps=3 'x=[a,b]'", "device_name": "H100", "git": git}
    text = page(tmp_path, replace(REPORT, environment=environment)).text
    told = "fsod_digits · miniatureAP 5.60 → 21.00 (+15.40)steps3time5:12completions18deviceH100seed7code0123456789 with changes"
    assert text.strip().removeprefix("fsod_digits · miniature").startswith(told)
    assert "To reproduce:python -m visual_rft.train steps=3 'x=[a,b]'Scores" in text and "seed: 7\n" in part(page(tmp_path), "Configuration")


def falling(parts: Sequence[float]) -> list[dict]:
    """A run whose reward rises while the boxes get worse."""
    return [{"step": 0, "eval/AP": 1.0}] + [
        {"step": step, "reward/mean": 1.0 + step / 10, "reward/std": 0.5, "reward/iou": iou} for step, iou in enumerate(parts, start=1)
    ]


def test_signs_of_trouble_stand_on_the_first_screen_with_their_remedy_cheating_first(tmp_path: Path) -> None:
    metrics = falling([0.8] * 12 + [0.1] * 12)
    stuck = [line | {"completion/truncated_fraction": 0.9, "loss/kl": None} for line in metrics]
    found = page(tmp_path, replace(REPORT, metrics=stuck))
    first = found.text.split("Scores")[0]
    assert first.index("hacking") < first.index("truncated") and "rewards=strict closes the known holes" in first
    (hacking, _) = found.all("a")
    assert hacking["href"] == "#explorer" and 12 < int(hacking["data-step"]) <= 24, "leads to the rollouts of its step"
    bare = page(tmp_path, replace(REPORT, metrics=stuck, rollouts=Rollouts()))
    assert (
        "hacking" in bare.text and not bare.all("a") and found.all("div", **{"class": "sign"}) and not page(tmp_path).all("div", **{"class": "sign"})
    )


def test_a_sign_shows_the_curves_that_show_it(tmp_path: Path) -> None:
    lines = [{"step": step, "answer/boxes_mean": 1.0 + (step > 10), "truth/boxes_mean": 1.0} for step in range(1, 21)]
    found = page(tmp_path, replace(REPORT, metrics=lines))
    (chart,) = [one for one in found.all("svg") if one.get("aria-label") == "answer/boxes_mean · truth/boxes_mean"]
    told = json.loads(chart["data-chart"])
    assert [(label, values[0], values[-1]) for label, _, values in told["series"]] == [("answer/boxes_mean", 1, 2), ("truth/boxes_mean", 1, 1)]
    assert "answer/boxes_meantruth/boxes_mean" in found.text.replace(" ", "").split("Scores")[0]


def test_the_change_of_one_answer_has_its_interval_on_the_first_screen(tmp_path: Path) -> None:
    worth = {"before": 40.0, "after": 55.5, "half_interval_95": 2.25}
    told = "extra and missing ones counted, or whether its name is right): 40.00 → 55.50, +15.50 ± 2.25 (95 %, over the images)"
    assert told in page(tmp_path, replace(REPORT, summary=SUMMARY | {"one_answer": worth})).text.split("Scores")[0]
    alone = page(tmp_path, replace(REPORT, summary=SUMMARY | {"one_answer": worth | {"half_interval_95": None}})).text
    assert "55.50, +15.50steps" in alone and "±" not in alone, "of one image nothing is known"


def test_numbers_of_both_evaluations_stand_beside_each_other_the_metric_first(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert part(found, "Scores").startswith("beforeafterchangeAP5.6021.00+15.40mean IoU20.0019.00-1.00reward/mean")
    assert part(found, "Scores by category") == "beforeafterchangeseven-1.00-one2.004.50+2.50"


def test_an_evaluation_alone_is_a_report_of_one_column(tmp_path: Path) -> None:
    summary = {"task": "fsod_digits", "model": "miniature", "metric": "AP", "value": 21.0, "evaluation": AFTER, "seconds": 5.0}
    found = Page(made(tmp_path, Report.of(tmp_path, summary, [replace(CLASS, answers={"evaluation": ClassAnswer("one")}, texts={})])))
    assert "AP 21.00time0:05Scores" in found.text and "→" not in found.text and "change" not in found.text
    assert "ScoresevaluationAP21.00mean IoU19.00" in found.text and "Refusalstest answersevaluationbad_box13" in found.text
    assert "Curves" not in found.text and "Rollouts" not in found.text and "Configuration" not in found.text


def test_a_run_folder_holds_all_that_its_report_shows(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", REPORT.config_yaml, {})
    for line in METRICS:
        folder.log_metrics(line["step"], {key: float("nan") if value is None else value for key, value in line.items() if key != "step"})
    for step in (1, 2, 3):
        folder.log_rollouts(step, GROUPS[step][0])
    folder.write_summary(SUMMARY)
    again = Report.of(folder.path, json.loads((folder.path / "summary.json").read_text()), REPORT.pictures)
    assert again.rollouts == ROLLOUTS
    assert made(tmp_path, again) == made(tmp_path, REPORT)


def test_refusals_are_summed_up_by_reason_and_a_step_without_one_had_none(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "truncated50.0025.0025.00" in text, "first 50 %, last 25 %, mean of 50, 0 and 25; step 0 was no training step"
    assert "test answersbeforeaftertruncated110bad_box013" in text


def test_what_is_taken_for_another_is_ranked_by_the_last_evaluation(tmp_path: Path) -> None:
    before = BEFORE | {"confusion": {"rose": {"rose": 5, "tulip": 3, "(refused)": 1}}}
    after = AFTER | {"confusion": {"rose": {"rose": 8, "tulip": 1}, "lily": {"rose": 4}}}
    text = page(tmp_path, replace(REPORT, summary=SUMMARY | {"evaluation_before": before, "evaluation_after": after})).text
    assert "Taken for anothershown → answeredbeforeafterlily → rose04rose → tulip31rose → (refused)10Refusals" in text
    assert "Taken for another" not in page(tmp_path).text


def test_skipped_steps_are_told_before_the_scores(tmp_path: Path) -> None:
    assert "skipped" not in page(tmp_path, replace(REPORT, metrics=[{"step": 1, "policy/skipped_steps": 0.0}])).text
    told = page(tmp_path, replace(REPORT, metrics=[{"step": 1, "policy/skipped_steps": 1.0}, {"step": 2, "policy/skipped_steps": 2.0}, {"step": 3}]))
    assert "skipped steps2, in skipped/" in told.text.split("Scores")[0]


@pytest.mark.parametrize("count", [6, 7])
def test_of_many_pictures_the_first_are_seen_at_once(tmp_path: Path, count: int) -> None:
    found = answers(tmp_path, *[DETECTION] * count)
    assert len(found.all("image")) == count and ("1 more" in found.text) == (count > 6)


@pytest.mark.parametrize("pictures", [[], [DETECTION]])
def test_a_report_of_nothing_has_no_empty_section(tmp_path: Path, pictures: Sequence[Picture]) -> None:
    assert len(Page(made(tmp_path, Report.of(tmp_path / "nowhere", {}, pictures))).all("h2")) == len(pictures)


def mood(tmp_path: Path, metrics: list[dict], **worth: float) -> str | None:
    found = page(
        tmp_path, replace(REPORT, metrics=metrics, summary=SUMMARY | {"one_answer": {"before": 40.0, "after": 55.0, "half_interval_95": 5.0} | worth})
    )
    (headline,) = found.all("p", **{"class": "headline"})
    assert headline
    return next((one["class"] for one in found.all("small") if one.get("class") in ("good", "bad")), None)


def test_a_gain_is_good_news_only_where_it_is_sure(tmp_path: Path) -> None:
    """AP rises in all of these."""
    assert mood(tmp_path, METRICS) == "good"
    assert mood(tmp_path, METRICS, half_interval_95=16.0) is None, "it could be chance"
    assert mood(tmp_path, METRICS, after=20.0) is None, "single answers became worse"
    assert mood(tmp_path, falling([0.8] * 12 + [0.1] * 12)) is None, "it cheats"
