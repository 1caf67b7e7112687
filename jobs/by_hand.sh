#!/bin/bash
#SBATCH --job-name=by_hand
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out

# One of the first labs by hand: NumPy, back-propagation written out, one MPI all-reduce per step.
#   sbatch -N 2 jobs/by_hand.sh linear_regression          or logistic_regression, or neural_network
#   sbatch -N 2 jobs/by_hand.sh neural_network --help      its options
#   bash jobs/by_hand.sh linear_regression                 one process, without Slurm

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

name=${1:-}
[[ -f $jobs/labs/by_hand/$name.py && -f $jobs/${name}_horovod.sh ]] || stop "there is no lab '$name' by hand: name" \
  "linear_regression, logistic_regression or neural_network"
shift
run python -m "labs.by_hand.$name" "$@"
