"""What is in data and wrong with them, splits, samples, data sets made: the entry `data`. Run: .venv/bin/python -m pytest tests/test_data.py

Trouble in COCO's format is listed in tests/troubled.py; rows, as they are read, in tests/test_rows.py.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import hub_folders
import numpy as np
import pyarrow.parquet as pq
import pytest
import troubled
from families import Family

from visual_rft import data, train, workload
from visual_rft.frames import NORM1000, Contract, Frame, Resized
from visual_rft.models.loading import folder as model_folder
from visual_rft.models.processor import IMAGE_PAD, Processor
from visual_rft.parsing import parse_detection
from visual_rft.sources import image_file
from visual_rft.sources.coco import CocoOptions
from visual_rft.sources.findings import Findings
from visual_rft.sources.rows import RowOptions, write_rows
from visual_rft.tasks.detection import DetectionOptions
from visual_rft.tasks.presence import Present
from visual_rft.tasks.wording import Wording
from visual_rft.vocabulary import DetectionAnswer

ROOT = Path(__file__).parents[1]
CUSTOM = ["task=custom_detection", "data=custom"]
TINY = ["model=tiny", "hardware=cpu", "steps=1", "prompts_per_step=2", "algorithm.group_size=2", "algorithm.max_completion_tokens=8"]

Captured = pytest.CaptureFixture[str]
Said = tuple[int, str, list[str]]  # exit code, stdout, lines of stderr
Entry = Callable[..., Said]


@pytest.fixture
def say(capfd: Captured) -> Entry:
    """Runs `data` in this process."""

    def run(*arguments: str) -> Said:
        code = data.main(list(arguments))
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    return run


@pytest.fixture
def training(capfd: Captured, tmp_path: Path) -> Entry:
    """Trains one step; what `run` holds is in its folder."""

    def run(*arguments: str, to: str = "run") -> Said:
        code = train.main([*arguments, *TINY, f"hydra.run.dir={tmp_path / to}"])
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    return run


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO and LVIS as they unpack, small."""
    spec = importlib.util.spec_from_file_location("stand_in", ROOT / "docs" / "stand_in.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("stand_in") / "coco"
    module.write(root)
    return root


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A set with two images to train on, and one to test on."""
    troubled.write(tmp_path / "set", "train", 2)
    troubled.write(tmp_path / "set", "test", 1, first=500)
    return tmp_path / "set"


def checked(say: Entry, tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str, list[str]]:
    """Exit code, what the file says of the training part, stdout, stderr."""
    file = tmp_path / "check.json"
    code, out, err = say("check", *arguments, f"out={file}")
    parts = json.loads(file.read_text())
    assert [part["part"] for part in parts] == ["train", "test"] and not parts[1]["faults"]
    return code, parts[0], out, err


def problems(out: str) -> list[str]:
    return [line.removeprefix("problem: ") for line in out.splitlines() if line.startswith("problem: ")]


# A check: counts of what there is


def test_a_check_counts_what_the_files_hold(say: Entry, stand_in: Path, tmp_path: Path) -> None:
    code, found, _, _ = checked(say, tmp_path, "task=fsod_coco", f"data.root={stand_in}")
    content = json.loads((stand_in / "annotations/instances_train2017.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    single = [row for row in content["annotations"] if not row["iscrowd"]]
    assert code == 0 and found["images"] == len(content["images"]) and found["objects"] == len(single)
    assert found["questions"] == 8 * 4 and found["faults"] == [] and found["place"].endswith("instances_train2017.json")
    for key, name in names.items():
        of = [row["image_id"] for row in single if row["category_id"] == key]
        assert found["by_category"][name] == [len(set(of)), len(of)]
    assert found["handled"] == {
        "categories without an image": 70,
        "crowds: not asked for, not counted against an answer": len(content["annotations"]) - len(single),
        "grey": sum(image["id"] % 370 == 9 + 111 for image in content["images"]),
    }


def test_stdout_is_a_table_a_part_and_stderr_a_line_a_part(say: Entry, custom: Path) -> None:
    code, out, err = say("check", *CUSTOM, f"data.root={custom}")
    assert code == 0
    assert out == (
        f"train: 2 images, 4 objects, 4 questions; {custom}/train.json\n"
        "category  images  objects\ncat            2        2\ndog            2        2\n\n"
        f"test: 1 images, 2 objects, 2 questions; {custom}/test.json\n"
        "category  images  objects\ncat            1        1\ndog            1        1\n\n"
    )
    assert [re.sub(r"  \d+:.*", "", line) for line in err] == ["open images of train  2/2", "open images of test  1/1"]


def test_digits_need_no_files(say: Entry, tmp_path: Path) -> None:
    code, found, _, _ = checked(say, tmp_path, "data.train_images=40", "task.shots=1", "task.negatives=0", "data.test_images=5")
    assert code == 0 and found["images"] == 40 and found["questions"] == 10 and found["faults"] == []
    assert sum(objects for _, objects in found["by_category"].values()) == found["objects"]


@pytest.mark.parametrize(("looked", "opened"), [("all", 2), ("asked", 1), ("none", 0)])
def test_as_many_images_are_opened_as_one_asks(looked: str, opened: int, say: Entry, custom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubled.spoil(custom, troubled.no_objects)
    names: list[str] = []
    real = image_file.open_image
    monkeypatch.setattr(image_file, "open_image", lambda name, *rest: names.append(name) or real(name, *rest))
    assert say("check", *CUSTOM, f"data.root={custom}", f"images={looked}")[0] == 0
    assert len([name for name in names if not name.endswith("500.png")]) == opened


# A check: every kind of trouble


@pytest.mark.parametrize("kind", troubled.HANDLED)
def test_what_is_taken_as_a_matter_of_course_is_counted(kind: str, say: Entry, custom: Path, tmp_path: Path) -> None:
    edit, called = troubled.HANDLED[kind]
    troubled.spoil(custom, edit)
    code, found, out, _ = checked(say, tmp_path, *CUSTOM, f"data.root={custom}")
    assert code == 0 and found["handled"] == {called: 1} and f"1 × {called}\n" in out and found["faults"] == []
    gone = {"a crowd": 1, "a box without area": 1, "a negative width": 1, "a box outside": 1, "an image without objects": 2}.get(kind, 0)
    assert (found["images"], found["objects"], found["questions"]) == (2, 4 - gone, 4 - gone)


def options(root: Path) -> tuple[DetectionOptions, CocoOptions]:
    asked = DetectionOptions("custom_detection", None, False, 0, None, Wording.full_1, True, None, None, 0.0, Present.ground_truth, None, 0.5)
    return asked, CocoOptions(str(root), "train.json", "images", None, "test.json", "images")


def first_fault(root: Path) -> str:
    """What stops training: of the file, or of an image that is opened."""
    with pytest.raises(ValueError) as caught:
        for example in workload.train_examples(*options(root), lambda _: NORM1000):
            example.image.load()
    return str(caught.value)


@pytest.mark.parametrize("kind", troubled.REFUSED)
def test_what_cannot_be_taken_is_named_with_file_row_and_remedy(kind: str, say: Entry, custom: Path, tmp_path: Path) -> None:
    case = troubled.REFUSED[kind]
    troubled.spoil(custom, case.edit)
    code, found, out, err = checked(say, tmp_path, *CUSTOM, f"data.root={custom}")
    assert code == 2 and found["faults"] == problems(out) == [f"{custom}/{case.said(1)}"]
    assert err[-1] == "1 problem in the data of custom_detection; each is named above, with its file and row"
    assert all("open images" in line for line in err[:-1])
    assert first_fault(custom) == found["faults"][0]


def test_every_fault_of_a_file_is_found_in_one_go(say: Entry, tmp_path: Path) -> None:
    kinds = [*troubled.REFUSED.values()]
    troubled.write(tmp_path / "set", "train", len(kinds) + 1)
    troubled.write(tmp_path / "set", "test", 1, first=500)
    troubled.spoil(tmp_path / "set", *(kind.edit for kind in kinds))
    code, found, _, err = checked(say, tmp_path, *CUSTOM, f"data.root={tmp_path / 'set'}")
    assert code == 2 and err[-1].startswith(f"{len(kinds)} problems in the data of")
    assert sorted(found["faults"]) == sorted(f"{tmp_path}/set/{kind.said(n)}" for n, kind in enumerate(kinds, start=1))
    assert first_fault(tmp_path / "set") == found["faults"][0]


@pytest.mark.parametrize("kind", ["NaN in a box", "a missing file", "a truncated file"])
def test_training_stops_at_the_first_fault_with_the_very_same_line(kind: str, say: Entry, training: Entry, custom: Path, tmp_path: Path) -> None:
    troubled.spoil(custom, troubled.REFUSED[kind].edit, troubled.REFUSED["a missing file"].edit)
    _, found, _, _ = checked(say, tmp_path, *CUSTOM, f"data.root={custom}")
    code, out, err = training(*CUSTOM, f"data.root={custom}")
    assert code == 2 and out == "" and len(found["faults"]) == 2 and err[-1] in found["faults"]
    assert kind != "NaN in a box" or (err == found["faults"][:1] and not (tmp_path / "run").exists())


def test_what_follows_from_a_fault_is_not_told_again(say: Entry, custom: Path, tmp_path: Path) -> None:
    troubled.spoil(custom, lambda content, *_: content["categories"][1].pop("name"))
    _, found, _, _ = checked(say, tmp_path, *CUSTOM, f"data.root={custom}")
    assert found["faults"] == [f"{custom}/train.json: categories, id 3: its name is missing, not text; {troubled.CORRECT}"]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", ['{"images": [', "", "[]", "[" * 100_000], ids=["truncated", "empty", "a list", "too deep"])
def test_a_file_that_cannot_be_read_is_one_problem_and_the_other_part_is_checked(part: str, content: str, say: Entry, custom: Path) -> None:
    (custom / f"{part}.json").write_text(content)
    code, out, err = say("check", *CUSTOM, f"data.root={custom}")
    (fault,) = problems(out)
    assert code == 2 and fault.startswith(f"data.{part}_annotations: {custom}/{part}.json: ") and err[-1].startswith("1 problem in")
    assert f"{part}: 0 images, 0 objects, 0 questions\nproblem: " in out and "cat  " in out


def test_missing_files_are_a_problem_with_what_to_download(say: Entry, tmp_path: Path) -> None:
    code, out, err = say("check", "task=fsod_coco", f"data.root={tmp_path}")
    assert code == 2 and len(problems(out)) == 2 and all("cocodataset.org" in line for line in problems(out)) and len(err) == 1


def test_a_question_that_cannot_be_asked_is_a_problem(say: Entry, custom: Path, tmp_path: Path) -> None:
    code, found, _, _ = checked(say, tmp_path, *CUSTOM, f"data.root={custom}", "task.shots=2")
    assert code == 2 and found["questions"] == 0 and found["faults"][0].startswith("task.shots=2: only 0 unused images show 'dog'")
    _, out, _ = say("check", *CUSTOM, f"data.root={custom}", "task.categories=[cow]")
    assert problems(out) == [f"task.categories: 'cow' is no category of {custom}/{part}.json, which has cat, dog" for part in ("train", "test")]


# A check of rows

ROW = {"image": "1.png", "problem": "Where is the cat?", "solution": "[{'Position': [100, 100, 600, 600], 'Confidence': 1.0}]", "category": "cat"}
BAD_ROWS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "no JSON": (lambda _: '{"image": ', "train.jsonl, line 2: not JSON"),
    "no object": (lambda _: "3", "train.jsonl, line 2: not a JSON object; write"),
    "no problem": (lambda row: json.dumps({key: row[key] for key in row if key != "problem"}), "train.jsonl, line 2: no `problem`; write"),
    "no image": (lambda row: json.dumps({key: row[key] for key in row if key != "image"}), "train.jsonl, line 2: no image; give one of"),
    "an image that is missing": (
        lambda row: json.dumps(row | {"image": "9.png"}),
        "train.jsonl, line 2: {root}/9.png: No such file or directory; give",
    ),
    "a solution that cannot be read": (
        lambda row: json.dumps(row | {"solution": "[{'Position': [1, 2, 3], 'Confidence': 1}]"}),
        "train.jsonl, line 2: the solution is no answer to this task: bad_box",
    ),
    "a box out of the frame": (
        lambda row: json.dumps(row | {"solution": row["solution"].replace("600", "1600")}),
        "train.jsonl, line 2: the solution is no answer to this task: out_of_frame",
    ),
    "too many marks": (
        lambda row: json.dumps(row | {"problem": "<image> or <image>?"}),
        "train.jsonl, line 2: <image> 2 times in `problem`, and 1 image; write it once an image, or leave it out",
    ),
    "an image cut off": (lambda row: json.dumps(row | {"image": "cut.png"}), "cut.png: not an image, or a damaged one; give a whole image file"),
}


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes rows to train on, a line each, and one to test on; what names them."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for n in (1, 2):
        troubled.noise(n).save(folder / f"{n}.png")
    (folder / "cut.png").write_bytes(troubled.saved(troubled.noise(3))[:-600])

    def write(*lines: str) -> list[str]:
        (folder / "train.jsonl").write_text("".join(line + "\n" for line in lines))
        (folder / "test.jsonl").write_text(json.dumps(ROW) + "\n")
        return ["task=custom_detection", "data=rows", f"data.train={folder}/train.jsonl", f"data.test={folder}/test.jsonl"]

    return write


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_row_that_cannot_be_taken_is_named_and_stops_training(
    kind: str, say: Entry, training: Entry, rows: Callable[..., list[str]], tmp_path: Path
) -> None:
    bad, said = BAD_ROWS[kind]
    given = rows(json.dumps(ROW), bad(ROW), json.dumps(ROW | {"image": "2.png"}))
    code, found, out, err = checked(say, tmp_path, *given)
    assert code == 2 and found["faults"] == problems(out) and len(found["faults"]) == 1 and err[-1].startswith("1 problem in")
    assert found["faults"][0].startswith(str(tmp_path)) and said.format(root=tmp_path / "rows") in found["faults"][0]
    assert "; " in found["faults"][0] and found["questions"] == (3 if "cut" in kind else 2)
    if "cut" not in kind:
        assert training(*given) == (2, "", found["faults"])


def test_all_bad_rows_are_found_in_one_go(say: Entry, rows: Callable[..., list[str]], tmp_path: Path) -> None:
    given = rows(json.dumps(ROW), *(bad(ROW) for bad, _ in BAD_ROWS.values()))
    code, found, _, _ = checked(say, tmp_path, *given)
    assert code == 2 and len(found["faults"]) == len(BAD_ROWS)
    named = [line for line in found["faults"] if "cut.png" not in line]
    assert sorted(int(re.findall(r"train\.jsonl, line (\d+)", line)[0]) for line in named) == [*range(2, len(BAD_ROWS) + 1)]


def test_several_images_a_row_are_taken_and_counted(say: Entry, rows: Callable[..., list[str]], tmp_path: Path) -> None:
    code, found, _, _ = checked(say, tmp_path, *rows(json.dumps(ROW | {"image": ["2.png", "1.png"]}), json.dumps(ROW)))
    assert code == 0 and found["images"] == 2 and found["by_category"] == {"cat": [1, 2]}
    assert found["handled"] == {"one image in several rows": 1, "several images in a row": 1}


def parquet(file: Path, *changes: dict[str, Any]) -> Path:
    usual = {"image": (troubled.saved(troubled.noise(1)), "1.png"), "problem": ROW["problem"], "solution": ROW["solution"]}
    write_rows([usual | change for change in changes], file)
    return file


def test_a_parquet_is_checked_like_lines(say: Entry, tmp_path: Path) -> None:
    cut, turned = (troubled.saved(troubled.noise(3))[:-600], "3.png"), (troubled.saved(troubled.noise(4), orientation=6), "4.png")
    file = parquet(tmp_path / "a.parquet", {}, {"solution": "there"}, {"image": (b"", "2.png")}, {"image": cut}, {"image": turned}, {"problem": " "})
    test = parquet(tmp_path / "b.parquet", {})
    code, found, _, _ = checked(say, tmp_path, "task=custom_detection", "data=rows", f"data.train={file}", f"data.test={test}")
    assert code == 2 and found["questions"] == 3 and found["handled"]["turned by EXIF"] == 1
    assert sorted(re.match(rf"{file}, row (\d)", line)[1] for line in found["faults"]) == ["1", "2", "3", "5"]  # type: ignore[index]


# split


def few(root: Path) -> list[str]:
    return ["task=fsod_coco", f"data.root={root}", "task.shots=2", "task.categories=[cat,dog]"]


@pytest.mark.slow
def test_a_split_given_back_is_the_same_training_data(say: Entry, training: Entry, stand_in: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    code, out, err = say("split", *few(stand_in), "task.split_seed=3", f"out={file}")
    drawn = json.loads(file.read_text())
    assert code == 0 and err == [] and len(drawn["examples"]) == 4
    assert out == (
        f"subject  images\ncat           2\ndog           2\n{file}: 4 examples, fingerprint {drawn['fingerprint'][:16]}; "
        f"give it back with task.split={file}\n"
    )
    assert training(*few(stand_in), "task.split_seed=3", to="drawn")[0] == 0
    given = [key for key in few(stand_in) if not key.startswith("task.shots")]
    assert training(*given, f"task.split={file}", to="given")[0] == 0
    found = {}
    for run in ("drawn", "given"):
        split, facts = (json.loads((tmp_path / run / name).read_text()) for name in ("split.json", "environment.json"))
        assert split["fingerprint"] == drawn["fingerprint"] and split["examples"] == drawn["examples"]
        lines = (tmp_path / run / "rollouts.jsonl").read_text()
        found[run] = (facts["data"], lines)  # the fingerprint is over ids, questions, truths and images, in order
    assert found["drawn"] == found["given"]


def test_a_split_is_never_written_over(say: Entry, custom: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    code, out, err = say("split", *CUSTOM, f"data.root={custom}", f"out={tmp_path}/mine.json")
    assert (code, out, err) == (2, "", [f"out={tmp_path}/mine.json: exists; name another file, or delete it"])
    assert (tmp_path / "mine.json").read_text() == "mine"


@pytest.mark.parametrize("shots", ["2", "null"])
def test_the_order_of_the_file_draws_no_other_split(shots: str, say: Entry, stand_in: Path, tmp_path: Path) -> None:
    content = json.loads((stand_in / "annotations/instances_train2017.json").read_text())
    rng = np.random.default_rng(0)
    for table in ("images", "annotations", "categories"):
        content[table] = [content[table][i] for i in rng.permutation(len(content[table]))]
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert say("split", *few(stand_in), f"task.shots={shots}", f"out={tmp_path}/a.json")[0] == 0
    assert say("split", *few(stand_in), f"task.shots={shots}", f"data.train_annotations={tmp_path}/other.json", f"out={tmp_path}/b.json")[0] == 0
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


@pytest.mark.slow
def test_a_split_depends_on_its_seed_and_not_on_pythons(say: Entry, stand_in: Path, tmp_path: Path) -> None:
    assert say("split", *few(stand_in), "seed=2", f"out={tmp_path}/c.json")[0] == 0
    for name, of_python in (("a", "0"), ("b", "1")):
        command = [sys.executable, "-m", "visual_rft.data", "split", *few(stand_in), "seed=1", f"out={tmp_path}/{name}.json"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": of_python}, cwd=tmp_path, capture_output=True)
    a, b, c = ((tmp_path / f"{name}.json").read_text() for name in "abc")
    assert a == b and json.loads(a)["examples"] != json.loads(c)["examples"]


# show

PRE = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)
RECT = re.compile(r'<rect class="truth" x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"/>')


def cards(file: Path) -> list[str]:
    page = file.read_text()
    outside = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert outside and all(link.startswith("data:image/png;base64,") for link in outside) and "<script" not in page and "url(" not in page
    return re.findall(r"<article>.*?</article>", page, re.DOTALL)


def shown(card: str, contract: Contract) -> tuple[str, DetectionAnswer, str]:
    """Prompt, right answer, and that the boxes stand where its numbers say."""
    prompt, answer = (unescape(text) for text in PRE.findall(card))
    parsed = parse_detection(answer, contract)
    assert isinstance(parsed, DetectionAnswer)
    width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', card)[0])
    rects = [tuple(map(float, rect)) for rect in RECT.findall(card)]
    assert len(rects) == len(parsed.boxes)
    for (x, y, w, h), (x1, y1, x2, y2) in zip(rects, parsed.boxes, strict=True):
        to_x, to_y = contract.frame.width / width, contract.frame.height / height
        assert (x * to_x, y * to_y, (x + w) * to_x, (y + h) * to_y) == pytest.approx((x1, y1, x2, y2), abs=0.15 * max(to_x, to_y))
    return prompt, parsed, answer


def expanded(prompt: str) -> str:
    """With a placeholder for each cell again."""
    return re.sub(rf"{re.escape(IMAGE_PAD)}×(\d+)", lambda found: IMAGE_PAD * int(found[1]), prompt)


def check_page(file: Path, out: str, root: Path, model: Path, pixels: tuple[int, int], speaks: Callable[[tuple[int, int]], Frame]) -> list[str]:
    """Every sample is what training asks, token by token. Returns the prompts."""
    processor = Processor.load(model, min_pixels=pixels[0], max_pixels=pixels[1])
    examples = workload.train_examples(*options(root), speaks)
    found = cards(file)
    prompts = []
    for card, example in zip(found, examples, strict=True):
        prompt, parsed, answer = shown(card, example.contract)
        grid_I3 = processor.pixels([example.image]).grid_I3
        tokens_S = processor.prompt(example.question, grid_I3)
        assert processor.encode(expanded(prompt))[:-1].tolist() == tokens_S.tolist() and parsed.boxes == example.truth.boxes
        images = int(grid_I3.prod() // 4)
        assert f"Prompt: {len(tokens_S)} tokens, {images} of them of images" in card
        assert f"Right answer: {len(processor.encode(answer))} tokens" in card
        counts = [str(images), str(len(tokens_S)), str(len(processor.encode(answer)))]
        assert any(line.startswith(f"{example.id} ") and line.split()[-3:] == counts for line in out.splitlines())
        prompts.append(prompt)
    return prompts


def test_a_page_shows_what_a_model_reads(say: Entry, custom: Path, tmp_path: Path) -> None:
    page = tmp_path / "samples.html"
    code, out, err = say("show", *CUSTOM, "model=tiny", f"data.root={custom}", f"out={page}")
    assert code == 0 and err == []
    prompts = check_page(page, out, custom, model_folder("embedded:tiny"), (4096, 4096), lambda _: NORM1000)
    assert out.startswith(prompts[0]) and out.endswith(f"\n{page}: 4 of 4 questions\n")


def test_a_model_that_speaks_pixels_is_asked_in_those_of_the_resized_image(say: Entry, custom: Path, tmp_path: Path) -> None:
    model = hub_folders.write(hub_folders.Layout(Family.qwen2_5_vl), tmp_path / "model")
    page = tmp_path / "samples.html"
    code, out, err = say("show", *CUSTOM, "model=qwen2_5_vl_3b", f"model.path={model}", f"data.root={custom}", f"out={page}")
    assert code == 0, err
    resized = Resized(84, 56)  # 40×30 at 3,136 pixels at least: 2 × 28 high, 3 × 28 wide
    (prompt, *_) = check_page(page, out, custom, model, (3136, 401408), lambda _: resized)
    assert "pixels of the image, which is 84 wide and 56 high" in prompt and "resized 84×56" in out


def test_samples_are_as_many_as_one_asks_from_all_over_the_questions(say: Entry, stand_in: Path, tmp_path: Path) -> None:
    page = tmp_path / "samples.html"
    code, out, _ = say("show", *few(stand_in), "model=tiny", "part=test", "count=4", f"out={page}")
    content = json.loads((stand_in / "annotations/instances_val2017.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    asked = {(row["image_id"], names[row["category_id"]]) for row in content["annotations"] if not row["iscrowd"]}
    questions = sum(name in ("cat", "dog") for _, name in asked)
    samples = [line.split()[0] for line in out.splitlines() if re.match(r"\d+/(cat|dog) ", line)]
    assert code == 0 and len(cards(page)) == len(samples) == 4 and out.endswith(f": 4 of {questions} questions\n")
    assert len({sample.split("/")[0] for sample in samples}) == 4 and questions > 8
    assert say("show", *CUSTOM, f"out={tmp_path}/b.html", "count=0")[2] == ["count=0: must be at least 1"]


def test_names_cannot_break_out_of_the_page(say: Entry, custom: Path, tmp_path: Path) -> None:
    troubled.spoil(custom, lambda content, *_: content["categories"][0].update(name="<script>cat</script>"))
    assert say("show", *CUSTOM, "model=tiny", f"data.root={custom}", f"out={tmp_path}/a.html")[0] == 0
    cards(tmp_path / "a.html")


# build


def test_what_is_built_is_a_data_set_of_the_hub(say: Entry, custom: Path, tmp_path: Path) -> None:
    """Rows are the questions, in order; files that every reader sees alike are the files, others PNGs of the pixels that are labelled."""
    kinds = [edit for edit, _ in troubled.IMAGES.values()]
    root = tmp_path / "all"
    troubled.write(root, "train", len(kinds) + 1)
    troubled.write(root, "test", 1, first=500)
    troubled.spoil(root, *kinds)
    out = tmp_path / "built.parquet"
    code, said, err = say("build", *CUSTOM, f"data.root={root}", f"out={out}")
    examples = workload.train_examples(*options(root), lambda _: NORM1000)
    assert code == 0 and err == [] and said == f"{out}: {len(examples)} rows, {out.stat().st_size / 2**20:.1f} MB\n"
    raw = pq.read_table(out).to_pylist()
    built = datasets.load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(built.features["image"], datasets.Image) and len(built) == len(raw) == len(examples)
    for row, bytes_of, example in zip(built, raw, examples, strict=True):
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(example.image))
        assert (row["problem"], row["category"]) == (example.question, example.subject)
        assert parse_detection(row["solution"], Contract(thinking=False)).boxes == example.truth.boxes  # type: ignore[union-attr]
        same = bytes_of["image"]["bytes"] == example.asked_about.content()
        assert same == (example.asked_about.id == len(kinds) + 1)
        assert bytes_of["image"]["path"].endswith(".png") and bytes_of["image"]["bytes"].startswith(b"\x89PNG")


@pytest.mark.parametrize("present", ["ground_truth", "all"])
def test_what_is_built_is_read_back_with_the_same_truths(present: str, say: Entry, custom: Path, tmp_path: Path) -> None:
    troubled.spoil(custom, troubled.in_dog(bbox=[-5, 5, 15, 60]), part="test", first=500)
    troubled.spoil(custom, lambda content, *_: content["categories"].append({"id": 9, "name": "cow"}), part="test")
    out = tmp_path / "built.parquet"
    assert say("build", *CUSTOM, f"data.root={custom}", f"task.present={present}", "part=test", f"out={out}")[0] == 0
    asked, files = options(custom)
    asked.present = Present(present)
    exam = workload.test_exam(asked, files, lambda _: NORM1000).questions
    read = workload.test_exam(options(custom)[0], RowOptions(str(out), str(out)), lambda _: NORM1000).questions
    assert len(exam) == (3 if present == "all" else 2)
    assert [(q.question, q.truth, q.subject) for q in read] == [(q.question, q.truth, q.subject) for q in exam]
    assert [q.image.tobytes() for q in read] == [q.image.tobytes() for q in exam]


@pytest.mark.slow
def test_runs_train_on_what_is_built(say: Entry, training: Entry, custom: Path, stand_in: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        assert say("build", *CUSTOM, f"data.root={custom}", f"part={part}", f"out={tmp_path}/{part}.parquet")[0] == 0
    given = [f"data.train={tmp_path}/train.parquet", f"data.test={tmp_path}/test.parquet"]
    code, _, err = training("task=custom_detection", "data=rows", *given, to="rows")
    assert code == 0, err
    assert {row["subject"] for row in json.loads((tmp_path / "rows/split.json").read_text())["examples"]} == {"cat", "dog"}
    rows = [f"data.train_rows={tmp_path}/train.parquet", "task.shots=null"]
    code, _, err = training("task=fsod_coco", f"data.root={stand_in}", "task.categories=[cat,dog]", *rows, to="coco")
    assert code == 0, err
    assert (tmp_path / "rows/split.json").read_text().count("sha256") == (tmp_path / "coco/split.json").read_text().count("sha256") == 4


def test_one_image_is_in_memory_at_a_time(say: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None that was opened before is alive when the next one is opened, but the last."""
    troubled.write(tmp_path / "set", "train", 12)
    alive: set[int] = set()
    most: list[int] = []
    real = image_file.open_image

    def counting(*arguments: Any) -> Any:
        most.append(len(alive))
        opened = real(*arguments)
        key = len(most)
        alive.add(key)
        weakref.finalize(opened.pixels, alive.discard, key)
        return opened

    monkeypatch.setattr(image_file, "open_image", counting)
    assert say("build", *CUSTOM, f"data.root={tmp_path / 'set'}", f"out={tmp_path}/a.parquet")[0] == 0
    assert len(most) == 24 and max(most) <= 1


def test_several_images_a_row_are_refused_before_anything_is_written(say: Entry, rows: Callable[..., list[str]], tmp_path: Path) -> None:
    given = rows(json.dumps(ROW), json.dumps(ROW | {"image": ["2.png", "1.png"]}))
    code, out, err = say("build", *given, f"out={tmp_path}/a.parquet")
    assert (code, out, err) == (2, "", ["row 1: shows several images, which is not written; take such rows out"])
    assert not list(tmp_path.glob("*.parquet*"))


def test_a_fault_leaves_no_half_of_a_file(say: Entry, custom: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    troubled.spoil(custom, troubled.IMAGES["grey"][0], troubled.FILES["a truncated file"].edit)
    code, out, err = say("build", *CUSTOM, f"data.root={custom}", f"out={tmp_path}/a.parquet")
    assert code == 2 and out == "" and err == [f"{custom}/{troubled.FILES['a truncated file'].said(2)}"]
    assert sorted(tmp_path.rglob("*")) == before


# Arguments


@pytest.mark.parametrize("verb", ["", "chekc", "task=fsod_coco", "CHECK"])
def test_without_one_of_its_verbs_it_says_which_there_are(verb: str, say: Entry) -> None:
    code, out, err = say(*([verb] if verb else []))
    assert code == 2 and out == "" and len(err) == 1 and "check, split, show, build" in err[0]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["show", "--help"]])
def test_help_is_on_stdout(arguments: list[str], say: Entry) -> None:
    code, out, err = say(*arguments)
    assert code == 0 and err == [] and ("python -m visual_rft.data check" in out if len(arguments) == 1 else "task" in out)


@pytest.mark.parametrize("verb", data.VERBS)
@pytest.mark.parametrize("wrong", ["shot=3", "task.presence=a.jsonl", "data.root=a b", "out=missing/a.json", "task=nothing"])
def test_what_is_typed_wrong_is_one_line_and_writes_nothing(
    verb: str, wrong: str, say: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if wrong.startswith("out=") or verb == "show" else ["out=a.json"]
    code, said, err = say(verb, wrong, *out)
    assert code == 2 and said == "" and len(err) == 1 and wrong.split("=")[0] in err[0] and "Traceback" not in err[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["split", "build"])
def test_the_file_to_write_must_be_named(verb: str, say: Entry) -> None:
    code, out, err = say(verb)
    assert code == 2 and out == "" and err == ["out: must be given, out=…"]


def test_nothing_to_ask_is_said(say: Entry, custom: Path, tmp_path: Path) -> None:
    content = json.loads((custom / "test.json").read_text())
    (custom / "test.json").write_text(json.dumps(content | {"annotations": []}))
    for verb, model in (("show", ["model=tiny"]), ("build", [])):
        code, out, err = say(verb, *CUSTOM, *model, "part=test", f"data.root={custom}", f"out={tmp_path}/a")
        assert code == 2 and out == "" and err == [f"{custom}/test.json: nothing in it is asked about; give other data, or other categories"]


def test_findings_keep_the_cause() -> None:
    cause = KeyError("x")
    with pytest.raises(ValueError, match="a fault") as caught:
        Findings().refuse("a fault", cause)
    assert caught.value.__cause__ is cause
    patient = Findings(patient=True)
    patient.refuse("a fault", cause)
    assert patient.faults == ["a fault"]
