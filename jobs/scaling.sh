#!/bin/bash
#SBATCH --job-name=scaling
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append

# How the speed of a lab grows with ranks: strong scaling (the same batch, divided) and weak scaling (as much for
# each rank), beside the limit that computation and all-reduce set.
#   sbatch -N 4 jobs/scaling.sh --lab cnn --ranks 1,2,4      a rank per node
#   sbatch -N 1 -n 2 -c 1 --hint=nomultithread jobs/scaling.sh --lab cnn --ranks 1,2     a core each, on one node
#   sbatch -N 2 --gpus-per-node=4 --ntasks-per-node=4 jobs/scaling.sh --lab cnn --ranks 1,2,4,8   a GPU each
# --batch N: samples per step; without it the lab's usual batch, rounded up to what divides.

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

[[ ${SLURM_JOB_ID:-} ]] || stop "a study of scaling needs Slurm: sbatch $0 $*"
directory=$PWD/scaling-$SLURM_JOB_ID
runs=$("${inside[@]}" python -m labs.labkit.scaling "$@")
[[ "$*" =~ --lab[=\ ]([a-z_]+) ]] && lab=${BASH_REMATCH[1]}
places=${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}
most=$(cut -d' ' -f2 <<<"$runs" | sort -n | tail -n 1)
((most <= places)) || stop "$most ranks were asked for, and this job has room for $places: sbatch -N $most $submitted"
while read -r mode ranks options; do
  nodes=$((ranks < SLURM_JOB_NUM_NODES ? ranks : SLURM_JOB_NUM_NODES))
  step=(srun --nodes="$nodes" --ntasks="$ranks" "${launch[@]:1}" "${inside[@]}" python -m)
  printf '\n== %s scaling, %s ranks\n' "$mode" "$ranks"
  # shellcheck disable=SC2086 # words
  "${step[@]}" "labs.$lab" $options --results "$directory/$mode-$ranks" </dev/null
  if [[ $ranks != 1 && ! -e $directory/allreduce-$ranks.txt ]]; then
    "${step[@]}" allreduce </dev/null | tee "$directory/allreduce-$ranks.txt"
  fi
done <<<"$runs"
echo
"${inside[@]}" python -m labs.labkit.scaling "$@" --report "$directory"
