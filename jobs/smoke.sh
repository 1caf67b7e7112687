#!/bin/bash
#SBATCH --job-name=smoke
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:15:00
#SBATCH --output=%x-%j.out

# Are these nodes fit for the labs? nodecheck on each, then in the image: the GPUs that Slurm gave and no others, a
# step of Horovod, all-reduce inside nodes and between them. A table at the end; the job fails where a check does.
#   sbatch -N 2 jobs/smoke.sh                                              a rank per node
#   sbatch -N 2 --gpus-per-node=4 --ntasks-per-node=4 jobs/smoke.sh        a rank per GPU
#   sbatch -N 1 -n 2 -w node7 jobs/smoke.sh --mib 256                      one node; MiB that all-reduce sums

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

directory=$PWD/smoke-${SLURM_JOB_ID:-local-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$directory"
each=() nodes=$(uname -n)
if [[ ${SLURM_JOB_ID:-} ]]; then
  # With all cores that the job has there, a rank's share being those of one socket: copies start near each GPU.
  each=(env -u SRUN_CPUS_PER_TASK srun --mpi=none --cpu-bind=none)
  each+=(--nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
  for word in "${launch[@]}"; do # a step of a job that has whole nodes gets no GPU that it does not ask for
    [[ $word == --gpus-per-node=* ]] && each+=("$word")
  done
  nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
fi
# Whatever fails here is a line of the table: a file that is missing there.
"${each[@]}" python3 "$jobs/smoke.py" node "$directory" </dev/null || true
"${launch[@]}" "${inside[@]}" python "$jobs/smoke.py" ranks "$directory" "$@" </dev/null || true
exec "${inside[@]}" python "$jobs/smoke.py" table "$directory" --nodes "$nodes" "$@"
