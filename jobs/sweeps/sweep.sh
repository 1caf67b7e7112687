# shellcheck shell=bash
# Read by each sweep, with $lab, the array $points and $jobs set: runs the points of which there is no result yet,
# one per task of the array, or all in turn without Slurm. Options after the script's name go to every point.

sweep=${SLURM_JOB_NAME:-$(basename "$0" .sh)}
for word; do sweep+=_${word#--}; done
sweep=$PWD/${sweep//[^A-Za-z0-9._=-]/,}

point() { # OPTIONS of the point, in one word, and those of all
  local options name
  read -ra options <<<"$1"
  name=${1//--/} name=${name// /_}
  if [[ -e $sweep/$name/result.json ]]; then
    echo "$name: there is a result in $sweep/$name (remove that to run it again)"
  else
    echo "$name:"
    # shellcheck disable=SC2154 # the sweep's
    run python -m "labs.$lab" "${options[@]}" "${@:2}" --results "$sweep/$name"
  fi
}

# shellcheck source=jobs/labs/launch.sh
source "$jobs/labs/launch.sh"

if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  # shellcheck disable=SC2154
  for options in "${points[@]}"; do (point "$options" "$@") || echo "this point failed: $options"; done
  run python -m labs.labkit.sweep "$sweep"
fi
# shellcheck disable=SC2153 # Slurm's
if [[ $SLURM_ARRAY_TASK_ID == "$SLURM_ARRAY_TASK_MIN" && ${SLURM_RESTART_COUNT:-0} == 0 ]]; then
  collector=(--dependency="afterany:$SLURM_ARRAY_JOB_ID" --output="$SLURM_JOB_NAME-$SLURM_ARRAY_JOB_ID.out")
  # A job of its own, which would take itself for a task of this array, as large as its tasks, if it inherited these.
  (unset "${!SLURM_ARRAY_@}" SLURM_CPUS_PER_TASK && sbatch --quiet "${collector[@]}" "$jobs/sweeps/collect.sh" "$sweep") ||
    echo "there will be no table by itself: bash $jobs/sweeps/collect.sh $sweep"
fi
point "${points[SLURM_ARRAY_TASK_ID]}" "$@"
