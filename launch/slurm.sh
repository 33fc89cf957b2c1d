#!/usr/bin/env bash
# Several machines of a Slurm cluster, one process a GPU:  sbatch launch/slurm.sh hardware=slurm_2x8 task=fsod_coco
# What sbatch is given goes before these lines:  sbatch --nodes=1 --partition=long launch/slurm.sh …
#
# Shortly before the time is up, and when the job is preempted, the ranks save and stop, and the job is queued again: with resume=auto, as here, it
# goes on from there. ENTRY=… runs another entry than visual_rft.train.
#SBATCH --job-name=visual_rft
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
set -euo pipefail

# Slurm runs a copy of this script; where the script itself is, only Slurm can say.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')
python=$(dirname -- "$script")/../.venv/bin/python
[[ -x $python ]] || python=python # of the environment that was active when the job was submitted

entry=${ENTRY:-visual_rft.train}
if [[ $entry =~ ^visual_rft\.(train|sft)$ && " $* " != *" resume="* ]]; then
    set -- "$@" resume=auto # last: flags such as -m come before all overrides
fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # below the ports that the system hands out; jobs that share a machine differ
# srun exits with the highest code of a rank, killed ones included. The ranks leave here, where all machines see it, what they would exit with.
VISUAL_RFT_EXIT_FILE=$(mktemp "$PWD/.visual_rft-$SLURM_JOB_ID-XXXXXX")
export MASTER_ADDR MASTER_PORT VISUAL_RFT_EXIT_FILE
trap 'rm -f "$VISUAL_RFT_EXIT_FILE"' EXIT
trap : TERM USR1 # the ranks have it too, and this script still has to queue the job again

code=0
# shellcheck disable=SC2016  # each rank reads its own variables
srun --kill-on-bad-exit=1 \
    bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec "$@"' _ \
    "$python" -m "$entry" "$@" || code=$?
[[ -s $VISUAL_RFT_EXIT_FILE ]] && code=$(<"$VISUAL_RFT_EXIT_FILE")

# 75: saved. 138 and 143: SIGUSR1 and SIGTERM found ranks that were still starting.
if [[ $code == 75 || $code == 138 || $code == 143 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
