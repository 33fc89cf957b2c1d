"""A model by its name on the Hugging Face hub: from the cache on this machine, or downloaded into it. Weights are safetensors only, and no code."""

import json
import re
import sys
from pathlib import Path

from visual_rft.storage import PUBLISHED

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name
WANTED = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
UNWANTED = ["*/*"]  # other formats of the same weights lie in folders


def snapshot(name: str, key: str = "model.path") -> Path:
    """The folder of a published model, which `key` of the configuration names. The network is asked only when the cache lacks a part of it, and never
    under HF_HUB_OFFLINE.

    Raises ValueError when it cannot be had.
    """
    from huggingface_hub import constants, snapshot_download

    def look_up(*, local: bool) -> Path:
        folder = snapshot_download(name, cache_dir=constants.HF_HUB_CACHE, local_files_only=local, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        return Path(folder)

    offline = constants.HF_HUB_OFFLINE
    try:
        cached = look_up(local=True)
    except (OSError, ValueError):
        cached = None
    # Offline a part of it is good for its configuration, and loading says which file of the weights is missing.
    if cached and (_is_whole(cached) or (offline and (cached / "config.json").is_file())):
        return cached
    if offline:
        raise _not_had(key, name, "its cache here has it not, or not whole, and HF_HUB_OFFLINE is set")
    print(f"{key}={name}: no such folder here; downloading it from the hub into {constants.HF_HUB_CACHE}", file=sys.stderr, flush=True)
    try:
        return look_up(local=False)
    except Exception as error:  # the errors of its HTTP library have no base of their own; each of them means the same to us
        raise _not_had(key, name, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def _not_had(key: str, name: str, reason: str) -> ValueError:
    return ValueError(f"{key}={name}: no such folder, nor to be had from the hub ({reason}); hf download {name} --local-dir {name}, or give a folder")


def _is_whole(folder: Path) -> bool:
    """Whether a download got as far as the weights: tools that need no more leave a folder with the configuration only."""
    index = folder / PUBLISHED
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / str(file)).is_file() for file in {"config.json"} | files)
