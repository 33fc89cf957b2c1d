"""k-shot splits: a few images a category, drawn by a seed; the same on every machine, whatever the order of files and the version of a library."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from visual_rft.seeding import Role, shuffled
from visual_rft.vocabulary import Example

# Which image, by its id, is asked about which subject: a category to find, an instruction to follow; empty where the image alone says it.
Pairs = list[tuple[int, str]]


def k_shot(shown: Mapping[int, Collection[str]], categories: Sequence[str], *, shots: int, at_most: bool = False, seed: int) -> Pairs:
    """`shots` images for each category, no image twice, of images, by id, that show the categories `shown`.

    Raises ValueError when there are fewer images than are asked for; with `at_most` a category takes what there is, and only nothing at all is
    refused.
    """
    showing: dict[str, list[int]] = {category: [] for category in categories}
    for i in shuffled(shown, Role.SHOTS, seed):
        for category in showing.keys() & shown[i]:
            showing[category].append(i)
    used, pairs = set[int](), Pairs()
    for category in categories:
        chosen = [i for i in showing[category] if i not in used][:shots]
        if len(chosen) < shots and not at_most:
            found = f"only {len(chosen)} unused images show '{category}'"
            remedy = f"ask for at most {len(chosen)} shots, or take what there is, task.at_most=true" if chosen else "leave that category out"
            raise ValueError(f"task.shots={shots}: {found}; {remedy}")
        used.update(chosen)
        pairs += [(i, category) for i in chosen]
    if not pairs:
        raise ValueError(f"task.shots={shots}: no image shows any of {', '.join(categories)}; give other data, or other categories")
    return pairs


def every(shown: Mapping[int, Collection[str]], categories: Sequence[str]) -> Pairs:
    """Each image asked about each category that it shows."""
    return [(i, category) for i in shown for category in categories if category in shown[i]]


def absent(lacking: Mapping[int, Collection[str]], taken: Pairs, *, share: float, seed: int) -> Pairs:
    """`share` times as many further pairs as `taken`, of other images, by id, with one of the categories that each is `lacking`.

    Raises ValueError when images run out.
    """
    used = {i for i, _ in taken}
    wanted = round(share * len(taken))
    others = shuffled((i for i, names in lacking.items() if names and i not in used), Role.NEGATIVES, seed)[:wanted]
    if len(others) < wanted:
        raise ValueError(f"task.negatives: {wanted} images without some category are wanted and {len(others)} are left; ask for fewer")
    return [(i, shuffled(sorted(lacking[i]), Role.NEGATIVES, seed, i)[0]) for i in others]


def fingerprint(examples: Iterable[Example], *, with_images: bool = True) -> str:
    """SHA-256 over every question, truth and image, in order; without what is in the images where that is not read."""
    digest, images = hashlib.sha256(), dict[int, str]()
    for example in examples:
        for image in example.images if with_images else ():
            images[image.id] = images.get(image.id) or image.digest()
        shown = [images.get(image.id, image.name) for image in example.images]
        digest.update(repr((example.id, example.question, example.truth, shown)).encode())
    return digest.hexdigest()
