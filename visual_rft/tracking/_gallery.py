"""Questions with their answers as HTML: the image with the true boxes and each answer's, labelled, and in words what no box says."""

from collections.abc import Sequence
from html import escape

from visual_rft.frames import Box
from visual_rft.tracking._page import details, legend_of
from visual_rft.tracking._svg import boxes_svg, frame, picture_again_svg, picture_svg
from visual_rft.tracking.pictures import Picture, labels
from visual_rft.vocabulary import Answer, Refusal

AT_ONCE = 6  # cards with boxes; of smaller ones twice as many
KINDS = ("before", "after")  # the page's colours of an earlier and of the last answer


def gallery(pictures: Sequence[Picture]) -> str:
    """A card each, under a legend of their colours; empty without pictures. Pictures without boxes are small."""
    if not pictures:
        return ""
    cards = [card(picture, f"picture{index}") for index, picture in enumerate(pictures)]
    if not any(map(_has_boxes, pictures)):
        return _folded(cards, "grid", AT_ONCE * 2)
    marks = {"truth": "truth"} | {name: kind for picture in pictures for name, kind in _kinds(picture).items()}
    return f"<p><small>{legend_of(marks)}</small></p>{_folded(cards, 'grid gallery', AT_ONCE)}"


def _folded(cards: Sequence[str], kind: str, at_once: int) -> str:
    """So many of them, the others behind a line that opens."""
    first, more = (f'<div class="{kind}">{"".join(some)}</div>' for some in (cards[:at_once], cards[at_once:]))
    return f"{first}<details><summary>{len(cards) - at_once} more</summary>{more}</details>" if len(cards) > at_once else first


def _has_boxes(picture: Picture) -> bool:
    return bool(picture.truth.boxes) or any(answer.boxes for answer in picture.answers.values() if not isinstance(answer, Refusal))


def _kinds(picture: Picture) -> dict[str, str]:
    """The CSS class of each answer's boxes."""
    names = list(picture.answers)
    assert len(names) <= len(KINDS), "more answers than colours"
    return dict(zip(names, KINDS[len(KINDS) - len(names) :], strict=True))


def card(picture: Picture, picture_id: str, head: str = "") -> str:
    """Under the `head`, which is HTML, a panel an answer; where nothing is drawn, the image once. `picture_id` is the only one of its page."""
    said = {name: escape(f"{name}: {_words(answer, picture.truth.boxes)}") for name, answer in picture.answers.items()}
    if _has_boxes(picture):
        panels = [
            f"<figure>{draw(picture.image, picture_id, _drawn(picture, name, kind))}<figcaption>{said[name]}</figcaption></figure>"
            for (name, kind), draw in zip(_kinds(picture).items(), (picture_svg, picture_again_svg), strict=False)
        ]
        shown = f'<div class="pair">{"".join(panels)}</div>' if len(panels) > 1 else panels[0]
    else:
        shown = picture_svg(picture.image, picture_id, "") + "".join(f"<p>{words}</p>" for words in said.values())
    truth = f"<p>{escape(f'truth: {picture.truth}')}</p>" if str(picture.truth) else ""
    texts = "".join(details(escape(f"Completion {name}"), text) for name, text in picture.texts.items())
    return f'<article>{head}<p class="question">{escape(picture.question)}</p>{truth}{shown}{texts}</article>'


def _words(answer: Answer | Refusal, truth: Sequence[Box]) -> str:
    if isinstance(answer, Refusal):
        return f"refused: {answer.reason} {answer.detail}".rstrip()
    return str(answer) or "; ".join(labels(answer, truth))


def _drawn(picture: Picture, name: str, kind: str) -> str:
    """The true boxes, and over them the answer's with their labels."""
    width, height = frame(picture.image.size)
    truth, answer = picture.truth.boxes, picture.answers[name]
    boxes = boxes_svg(truth, [""] * len(truth), kind="truth", of=picture.frame, width=width, height=height)
    if isinstance(answer, Refusal):
        return boxes
    return boxes + boxes_svg(answer.boxes, labels(answer, truth), kind=kind, of=picture.frame, width=width, height=height)
