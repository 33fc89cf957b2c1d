"""k-shot splits: a few images a category, drawn by a seed, with a fingerprint that tells whether two runs saw the same data."""

import hashlib
from collections.abc import Iterable, Sequence

from numpy.random import Generator

from visual_rft.vocabulary import AnnotatedImage, Example


def k_shot(
    images: Sequence[AnnotatedImage], categories: Sequence[str], *, shots: int, negatives: float, rng: Generator
) -> list[tuple[AnnotatedImage, str]]:
    """(image, category) pairs: `shots` images for each category, no image twice, and `negatives` times as many pairs whose category is absent.

    Raises ValueError when there are fewer images than are asked for.
    """
    free = [images[i] for i in rng.permutation(len(images))]
    pairs: list[tuple[AnnotatedImage, str]] = []
    for category in categories:
        chosen = [image for image in free if category in _shown(image)][:shots]
        if len(chosen) < shots:
            raise ValueError(f"task.shots={shots}: only {len(chosen)} unused images show '{category}'; ask for at most {len(chosen)} shots")
        taken = {image.id for image in chosen}
        free = [image for image in free if image.id not in taken]
        pairs += [(image, category) for image in chosen]
    wanted = round(negatives * len(pairs))
    candidates = [image for image in free if set(categories) - _shown(image)][:wanted]
    if len(candidates) < wanted:
        raise ValueError(f"task.negatives: {wanted} images without some category are wanted and {len(candidates)} are left; ask for fewer")
    return pairs + [(image, str(rng.choice(sorted(set(categories) - _shown(image))))) for image in candidates]


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 over every question, truth and pixel, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.id, example.question, example.truth, example.image.mode, example.image.size)).encode())
        digest.update(example.image.tobytes())
    return digest.hexdigest()


def _shown(image: AnnotatedImage) -> set[str]:
    return {annotation.category for annotation in image.annotations}
