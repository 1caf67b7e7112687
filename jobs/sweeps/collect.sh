#!/bin/bash
#SBATCH --job-name=collect
#SBATCH --ntasks=1
#SBATCH --time=00:10:00
#SBATCH --output=%x-%j.out

# The table and the figure of a sweep, of the points that have a result: its last job, and at any time
#   bash jobs/sweeps/collect.sh learning_rates

set -euo pipefail

# Slurm runs a copy of this file in its spool, so $0 does not lead to jobs/: Slurm knows what was submitted.
submitted=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '/^ *Command=\//{s///;s|^|/|p;q}') || true
until [[ -f $submitted || $submitted != *\ * ]]; do submitted=${submitted% *}; done # behind it its arguments
for jobs in "${submitted:+$(dirname "$submitted")/..}" "$(dirname "$0")/.." "${SLURM_SUBMIT_DIR:-.}"{,/jobs} ''; do
  [[ -f $jobs/labs/launch.sh ]] && break
done
[[ $jobs ]] || { echo "minsky: no labs/ beside ${submitted:-$0}: submit the script from jobs/sweeps/" >&2 && exit 1; }
# shellcheck source=jobs/labs/launch.sh
source "$jobs/labs/launch.sh"

run python -m labs.labkit.sweep "$@"
