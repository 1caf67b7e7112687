#!/bin/bash
#SBATCH --job-name=imagenet
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append

# CaffeNet names what is on pictures, one rank per node, each with all the node's CPUs. From any directory
# that the nodes share:
#   sbatch jobs/imagenet_horovod.sh                           two nodes, random weights, striped pictures
#   sbatch -N 3 jobs/imagenet_horovod.sh --images pictures/   three, and an option of the lab (--help lists them)
#   sbatch -N 2 --gpus-per-node=4 --ntasks-per-node=4 jobs/imagenet_horovod.sh   a rank for each GPU of two nodes with four
#   bash jobs/imagenet_horovod.sh                             one process, without Slurm

set -euo pipefail

# Slurm runs a copy of this file in its spool, so $0 does not lead to jobs/: Slurm knows what was submitted.
submitted=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '/^ *Command=\//{s///;s|^|/|p;q}') || true
until [[ -f $submitted || $submitted != *\ * ]]; do submitted=${submitted% *}; done # behind it its arguments
for jobs in "${submitted:+$(dirname "$submitted")}" "$(dirname "$0")" "${SLURM_SUBMIT_DIR:-.}"{,/jobs} ''; do
  [[ -f $jobs/labs/launch.sh ]] && break
done
[[ $jobs ]] || { echo "minsky: no labs/ beside ${submitted:-$0}: submit the script from jobs/" >&2 && exit 1; }
# shellcheck source=jobs/labs/launch.sh
source "$jobs/labs/launch.sh"

run python -m labs.imagenet "$@"
