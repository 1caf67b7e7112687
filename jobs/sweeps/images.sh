#!/bin/bash
#SBATCH --job-name=images
#SBATCH --array=0-4%2
#SBATCH --ntasks=1
#SBATCH --time=00:30:00
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90

# Other images, other first weights: how much of the gap is chance?

set -euo pipefail

# Slurm runs a copy of this file in its spool, so $0 does not lead to jobs/: Slurm knows what was submitted.
submitted=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '/^ *Command=\//{s///;s|^|/|p;q}') || true
until [[ -f $submitted || $submitted != *\ * ]]; do submitted=${submitted% *}; done # behind it its arguments
for jobs in "${submitted:+$(dirname "$submitted")/..}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}"{,/jobs} ''; do
  [[ -f $jobs/labs/launch.sh ]] && break
done
[[ $jobs ]] || { echo "minsky: no labs/ beside ${submitted:-$0}: submit the script from jobs/sweeps/" >&2 && exit 1; }

lab=transfer_learning
points=(--seed={1,2,3,4,5})
# shellcheck source=jobs/sweeps/sweep.sh
source "$jobs/sweeps/sweep.sh" "$@"
