"""What the pages of the site say of the code is so. Run: .venv/bin/python -m pytest tests/test_docs_site.py

Whether their links and anchors lead somewhere `make docs` says, which stops at the first that does not.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from visual_rft.advantages import group_advantages
from visual_rft.rewards import strict
from visual_rft.vocabulary import DetectionTruth

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"tests/(?P<file>\w+\.py)(?:::(?P<test>\w+))?")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")
SVG = "{http://www.w3.org/2000/svg}"


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def not_there(text: str) -> list[str]:
    """The tests that a text names by file, or by file and function, and that do not exist."""
    files = {name: functions_of(ROOT / "tests" / name) for name in {m["file"] for m in NAMED.finditer(text)} if (ROOT / "tests" / name).is_file()}
    return [m[0] for m in NAMED.finditer(text) if m["file"] not in files or m["test"] not in {None, *files[m["file"]]}]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert not_there(page.read_text()) == []


def test_a_test_that_is_gone_is_found() -> None:
    here = "tests/test_docs_site.py"
    assert not_there(f"`{here}`, `{here}::test_a_test_that_is_gone_is_found`") == []
    assert not_there(f"`{here}::test_gone` and `tests/test_gone.py::test_gone`") == [f"{here}::test_gone", "tests/test_gone.py::test_gone"]


def test_every_answer_of_the_questions_names_a_test() -> None:
    _, *sections = re.split(r"^### ", (ROOT / "docs/faq.md").read_text(), flags=re.MULTILINE)
    assert len(sections) > 20
    assert [section.splitlines()[0] for section in sections if "::test_" not in section] == []


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_of_pages_that_are_not_of_the_site_lead_somewhere(page: Path) -> None:
    assert [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()] == []


# The drawing of a step


def words(name: str) -> list[str]:
    """What the drawing says in texts of a class, from left to right, top to bottom."""
    drawing = ElementTree.parse(ROOT / "docs/a_step.svg")
    return [text.text or "" for text in drawing.iter(f"{SVG}text") if text.get("class") == name]


def boxes(name: str) -> list[tuple[float, float, float, float]]:
    """Its boxes of a class, in thousandths of the image that each is on."""
    rectangles = list(ElementTree.parse(ROOT / "docs/a_step.svg").iter(f"{SVG}rect"))
    placed = [(one.get("class"), *(float(one.get(key, "")) for key in ("x", "y", "width", "height"))) for one in rectangles]
    found, ground = [], (0.0, 0.0, 1.0, 1.0)
    for kind, x, y, w, h in placed:
        if kind == "image":
            ground = (x, y, w, h)
        if kind == name:
            left, top, width, height = ground
            found.append(tuple(round(1000 * v) for v in ((x - left) / width, (y - top) / height, (x + w - left) / width, (y + h - top) / height)))
    return found


def test_the_numbers_of_the_drawing_are_those_of_the_code() -> None:
    truths, drawn = boxes("truth"), boxes("drawn")
    assert len(drawn) == 3 and len(set(truths)) == 1, "one example, and its truth on every image"
    answers = [f"[{{'Position': {list(box)}, 'Confidence': {c}}}]" for box, c in zip(drawn, (0.9, 0.9, 0.5), strict=True)]
    texts = [*(f"<think>five</think><answer>{answer}</answer>" for answer in answers), "<think>five</think><answer>[{'Position': [550, 1"]
    rewards = [strict.detection(text, DetectionTruth((truths[0],))) for text in texts]
    totals = [sum(reward.parts.values()) for reward in rewards]
    assert words("total") == [f"{total:.2f}" for total in totals]
    parts = [word.replace("−", "-") for word in words("part")]
    for reward, at in zip(rewards[:3], range(0, 18, 6), strict=True):
        assert parts[at : at + 6] == [
            word for name, value in zip(("IoU", "confidence", "format"), reward.parts.values(), strict=True) for word in (name, f"{value:.2f}")
        ]
    assert rewards[3].refusal and parts[18:] == ["refused:", rewards[3].refusal.reason.value]
    advantages = group_advantages(torch.tensor([totals]))[0].tolist()
    assert words("value") == [f"{value:+.2f}".replace("-", "−") for value in advantages]
    assert all(before > after for before, after in pairwise(advantages))
