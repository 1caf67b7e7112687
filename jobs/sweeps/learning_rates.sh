#!/bin/bash
#SBATCH --job-name=learning_rates
#SBATCH --array=0-6%2
#SBATCH --ntasks=1
#SBATCH --time=00:30:00
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90

# How far should a step go? The workshop's seven learning rates; from .0443 on, full-batch gradient descent diverges.
#   sbatch jobs/sweeps/learning_rates.sh                   two points at a time, then a table and a figure
#   sbatch jobs/sweeps/learning_rates.sh --epochs 3000     with an option for all of them
#   bash jobs/sweeps/learning_rates.sh                     one after the other, without Slurm

set -euo pipefail

# Slurm runs a copy of this file in its spool, so $0 does not lead to jobs/: Slurm knows what was submitted.
submitted=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '/^ *Command=\//{s///;s|^|/|p;q}') || true
until [[ -f $submitted || $submitted != *\ * ]]; do submitted=${submitted% *}; done # behind it its arguments
for jobs in "${submitted:+$(dirname "$submitted")/..}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}"{,/jobs} ''; do
  [[ -f $jobs/labs/launch.sh ]] && break
done
[[ $jobs ]] || { echo "minsky: no labs/ beside ${submitted:-$0}: submit the script from jobs/sweeps/" >&2 && exit 1; }

lab=linear_regression
points=(--learning-rate={0.001,0.003,0.01,0.03,0.1,0.3,1})
# shellcheck source=jobs/sweeps/sweep.sh
source "$jobs/sweeps/sweep.sh" "$@"
