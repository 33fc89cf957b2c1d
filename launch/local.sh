#!/usr/bin/env bash
# One process on this machine:  launch/local.sh task=fsod_digits steps=2
# On the CPU, as hardware=cpu says by default; hardware=gpu_80gb takes a GPU. ENTRY=visual_rft.evaluate runs another entry.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$here/../.venv/bin/python
[[ -x $python ]] || python=python # of the environment that is active

exec "$python" -m "${ENTRY:-visual_rft.train}" "$@"
