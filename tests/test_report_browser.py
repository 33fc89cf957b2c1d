"""The report as a browser shows it: `pytest -m slow tests/test_report_browser.py`, which needs a Chromium."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, browser
from PIL import Image
from test_report import DETECTION, HOSTILE, REPORT, falling
from test_rollouts_shown import EXAMPLE, record

from visual_rft.tracking._rollouts import Rollouts
from visual_rft.tracking.report import write_report
from visual_rft.vocabulary import ClassTruth, Detection, DetectionAnswer

pytestmark = pytest.mark.slow

DRAWN = (500.0, 0.0, 1000.0, 500.0)
ANSWER = DetectionAnswer((Detection(DRAWN, 0.9),)).plain
STEPS = {
    1: [[record(completion="refused twice", refused="truncated", reward=0.0, advantage=-1.0), record(completion="drawn well", answer=ANSWER)]],
    5: [[record(completion=HOSTILE, refused=HOSTILE, reward=None, advantage=0.0)], [record("other", "Drawn WELL, too", [])]],
    9: [[record(f"{group}/five", f"group {group}", answer=ANSWER) for _ in range(2)] for group in range(6)],
}
ROLLOUTS = Rollouts(STEPS, steps=3, groups=9, completions=16)
METRICS = falling([0.8] * 12 + [0.1] * 12)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    hostile = replace(EXAMPLE, id="other", question=HOSTILE, truth=ClassTruth(HOSTILE))
    write_report(tmp_path / "report.html", replace(REPORT, metrics=METRICS, rollouts=ROLLOUTS, examples={"7/five": EXAMPLE, "other": hostile}))
    chromium.open(tmp_path / "report.html")
    yield chromium
    assert chromium.complaints == [], "the console is silent, and nothing is asked of the network"


def texts(page: Browser) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.completion pre')].map(e => e.textContent)")


def step(page: Browser) -> str:
    return page.evaluate("document.querySelector('#at').textContent")


def choose(page: Browser, name: str) -> None:
    """As a user of the list does: the option, and the event that the list then sends."""
    page.evaluate(
        f"(() => {{ const list = document.querySelector('#refusal'); list.value = [...list.options].find(o => o.text === {name!r}).value;"
        "list.dispatchEvent(new Event('input')) })()"
    )


def test_the_slider_goes_through_the_steps(opened: Browser) -> None:
    assert step(opened) == "1" and texts(opened) == ["drawn well", "refused twice"], "the best paid first"
    opened.click("#step")
    opened.press("Home")
    for expected in ("5", "9", "9"):
        opened.press("ArrowRight")
        assert step(opened) == expected
    assert len(texts(opened)) == 8, "four groups at once"
    opened.click("#groups .more")
    assert len(texts(opened)) == 12


def test_hostile_text_is_shown_as_text(opened: Browser) -> None:
    opened.click("#step")
    assert step(opened) == "5" and texts(opened) == [HOSTILE, "Drawn WELL, too"]
    assert opened.evaluate("document.querySelectorAll('script, img').length") == 2, "the island and our own"


def test_the_filter_and_the_search_leave_what_was_asked_for(opened: Browser) -> None:
    choose(opened, "truncated")
    assert texts(opened) == ["refused twice"]
    assert opened.evaluate("document.querySelector('#matches').textContent").startswith("1 of 2 completions of this step; 1 in all, in 0 other steps")
    choose(opened, "answered")
    opened.click("#words")
    opened.type("drawn well")
    assert texts(opened) == ["drawn well"]
    opened.click("#later")
    assert step(opened) == "5" and texts(opened) == ["Drawn WELL, too"]
    opened.click("#later")
    assert step(opened) == "5", "nothing at step 9 is so"


def test_a_sign_leads_to_the_rollouts_of_its_step(opened: Browser) -> None:
    opened.click(".sign a")
    assert step(opened) == "9", "of those shown the nearest"
    assert opened.evaluate("document.querySelector('#explorer').getBoundingClientRect().top") < 900


def test_the_value_under_the_pointer_is_told(opened: Browser) -> None:
    x, y, width, height = opened.place(".sign .curve")
    opened.move(x + 1, y + height / 2)
    assert opened.evaluate("document.querySelector('.told').textContent").startswith("step 1reward/mean 1.1reward/iou 0.8"), "what a sign goes by"
    x, y, width, height = opened.place(".curve[aria-label='reward/mean']")  # 1.1 at step 1, 3.4 at step 24
    for share, told in ((0.01, "step 11.1"), (0.99, "step 243.4"), (0.49, "step 122.2")):
        opened.move(x + share * width, y + height / 2)
        assert opened.evaluate("document.querySelector('.told').textContent") == told
    opened.move(x, y - 200)
    assert opened.evaluate("document.querySelector('.told')") is None


def is_like(pixel: tuple[int, int, int], colour: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("width, scheme", [(1440, "light"), (390, "dark")])
def test_boxes_stand_where_the_numbers_say(chromium: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """In the gallery and among the rollouts: the middle of each side has the box's colour, and so has no point beside it."""
    report = replace(REPORT, rollouts=Rollouts({1: [[record(answer=ANSWER)]]}, 1, 1, 1), examples={"7/five": EXAMPLE})
    write_report(
        tmp_path / "report.html", replace(report, pictures=[replace(DETECTION, answers={"after": DetectionAnswer((Detection(DRAWN, 0.9),))})])
    )
    chromium.open(tmp_path / "report.html", width=width, scheme=scheme)
    for selector in (".gallery .picture", "#groups .picture"):
        place, seen = chromium.place(selector), chromium.picture()
        assert is_like(seen.getpixel(at(place, (0.25, 0.25))), (128, 0, 128)), "the image itself"
        for side in sides(DRAWN):
            assert is_like(seen.getpixel(at(place, side)), (0x56, 0xB4, 0xE9)), f"{selector} {side}"
        found = ring(seen, place, (0x56, 0xB4, 0xE9))
        assert found == pytest.approx([value / 1000 for value in DRAWN], abs=0.03), "and nowhere else"
    assert chromium.complaints == []


def at(place: tuple[float, ...], point: tuple[float, float]) -> tuple[int, int]:
    x, y, width, height = place
    return round(x + point[0] * width), round(y + point[1] * height)


def sides(box: tuple[float, ...]) -> list[tuple[float, float]]:
    """The middle of those sides of a box, as shares of the picture, that lie within it."""
    x1, y1, x2, y2 = (value / 1000 for value in box)
    return [point for point in ((x1, (y1 + y2) / 2), ((x1 + x2) / 2, y2)) if max(point) < 1]


def ring(seen: Image.Image, place: tuple[float, ...], colour: tuple[int, int, int]) -> list[float]:
    """What all pixels of this colour lie within, as shares of the picture."""
    x, y, width, height = place
    inside = seen.crop((round(x), round(y), round(x + width), round(y + height)))
    ys, xs = np.nonzero((np.abs(np.asarray(inside).astype(int) - colour) < 40).all(axis=-1))
    return [xs.min() / inside.width, ys.min() / inside.height, (xs.max() + 1) / inside.width, (ys.max() + 1) / inside.height]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_alone_and_the_scheme_is_the_users(opened: Browser, tmp_path: Path, scheme: str) -> None:
    opened.open(tmp_path / "report.html", width=390, height=844, scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert (sum(opened.picture().getpixel((2, 400))) > 600) == (scheme == "light")
