#!/bin/bash
#SBATCH --job-name=shards
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out

# Pictures in directories, one for each class, put into a few files that ranks read side by side; into shards-JOB/.
#   sbatch -N 2 jobs/shards.sh imagenette2-160     its train/CLASS/ and val/CLASS/, or CLASS/ alone
#   bash jobs/shards.sh imagenette2-160            one process, without Slurm

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

run python -m labs.labkit.shards "$@"
