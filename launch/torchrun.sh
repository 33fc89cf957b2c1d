#!/usr/bin/env bash
# Several processes on this machine, one a GPU:  launch/torchrun.sh task=fsod_digits steps=2
#
#   NPROC=4       so many; by default as many as there are GPUs, without one 2
#   RESTARTS=3    how often all are started again after one has crashed; with resume=auto, as here, they go on from the last checkpoint
#   ENTRY=…       another entry than visual_rft.train
#
# SIGTERM or SIGUSR1 to this script: save and stop. Exit codes are those of the entry: 75 means that the same command goes on.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=$here/../.venv/bin/python
[[ -x $python ]] || python=python # of the environment that is active

entry=${ENTRY:-visual_rft.train}
if [[ $entry =~ ^visual_rft\.(train|sft)$ && " $* " != *" resume="* ]]; then
    set -- "$@" resume=auto # last: flags such as -m come before all overrides
fi
nproc=${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count() or 2)')}

for given in "NPROC=$nproc" "RESTARTS=${RESTARTS:-3}"; do
    [[ ${given#*=} =~ ^[0-9]+$ && $given != NPROC=0 ]] || { echo "$given: must be a number" >&2 && exit 2; }
done

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # what torchrun sets anyway, with a banner

# torchrun would start a refused run again, and always exits with 1. The ranks leave here what they would exit with, if another try cannot change it.
VISUAL_RFT_EXIT_FILE=$(mktemp)
export VISUAL_RFT_EXIT_FILE
trap 'rm -f "$VISUAL_RFT_EXIT_FILE"' EXIT

"$python" -m torch.distributed.run --standalone --nproc-per-node "$nproc" --max-restarts "${RESTARTS:-3}" \
    -m "$entry" "$@" &
torchrun=$!

# To the ranks, not to torchrun, which would give them 30 seconds. One that is still starting dies of it: 75 keeps its next try from beginning.
stop() {
    echo 75 >"$VISUAL_RFT_EXIT_FILE"
    local ranks
    read -rd "" -a ranks <"/proc/$torchrun/task/$torchrun/children" || true # to the end of a file without lines
    kill -USR1 "${ranks[@]}" || true # one may have ended
}
trap stop TERM USR1
trap : INT # torchrun hands it on, and this script still tells how the ranks ended

code=0
while kill -0 "$torchrun" 2>/dev/null; do # a signal ends `wait` early
    wait "$torchrun" && code=0 || code=$?
done
[[ -s $VISUAL_RFT_EXIT_FILE ]] && code=$(<"$VISUAL_RFT_EXIT_FILE")
exit "$code"
