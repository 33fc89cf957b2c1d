"""k-shot splits: a few images a category, drawn by a seed, with a fingerprint that tells whether two runs saw the same data."""

import hashlib
from collections.abc import Collection, Iterable, Sequence

from numpy.random import Generator

from visual_rft.vocabulary import Example

# Which image, by its index, is asked about which category.
Pairs = list[tuple[int, str]]


def k_shot(shown: Sequence[Collection[str]], categories: Sequence[str], *, shots: int, rng: Generator) -> Pairs:
    """`shots` images for each category, no image twice, of images that show the categories `shown`.

    Raises ValueError when there are fewer images than are asked for.
    """
    free = [int(i) for i in rng.permutation(len(shown))]
    pairs: Pairs = []
    for category in categories:
        chosen = [i for i in free if category in shown[i]][:shots]
        if len(chosen) < shots:
            raise ValueError(f"task.shots={shots}: only {len(chosen)} unused images show '{category}'; ask for at most {len(chosen)} shots")
        free = [i for i in free if i not in chosen]
        pairs += [(i, category) for i in chosen]
    return pairs


def absent(shown: Sequence[Collection[str]], categories: Sequence[str], taken: Pairs, *, share: float, rng: Generator) -> Pairs:
    """`share` times as many further pairs as `taken`, of other images, whose category is not shown. Raises ValueError when images run out."""
    used = {i for i, _ in taken}
    wanted = round(share * len(taken))
    others = [int(i) for i in rng.permutation(len(shown)) if i not in used and set(categories) - set(shown[i])][:wanted]
    if len(others) < wanted:
        raise ValueError(f"task.negatives: {wanted} images without some category are wanted and {len(others)} are left; ask for fewer")
    return [(i, str(rng.choice(sorted(set(categories) - set(shown[i]))))) for i in others]


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over every question, truth and pixel, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.id, example.question, example.truth, example.image.mode, example.image.size)).encode())
        digest.update(example.image.tobytes())
    return digest.hexdigest()
