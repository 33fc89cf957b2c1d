"""What the options of every source of images have in common."""

from dataclasses import dataclass


@dataclass
class DataOptions:
    """Where the images of a run come from; each source declares its own keys."""
