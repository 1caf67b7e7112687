# shellcheck shell=bash
# Read by the job scripts, with $jobs set: checks that a lab can start, says where it will run, and defines
# `run`, which starts a program on the ranks; `launch` are the words that start them, `inside` those that enter
# the image.

jobs=$(realpath "$jobs")
# shellcheck source=jobs/env.sh
source "$jobs/env.sh"

stop() {
  printf 'minsky: %s\n' "$*" >&2
  exit 1
}

# --- Slurm: srun starts the ranks --------------------------------------------------------------------------

# Whether only this host has directory $1, in a job that has others or was submitted on one.
# What lies on $MINSKY_SHARED's file system is shared, whatever its type (on a server of NFS: the disk's). Of
# others the type must tell, since homes may lie on a second shared one. Without SLURMD_NODENAME this is no
# node but the host where salloc was typed.
stays_here() {
  [[ ${SLURM_SUBMIT_HOST%%.*} != "${HOSTNAME%%.*}" || $SLURM_JOB_NUM_NODES -gt 1 || -z ${SLURMD_NODENAME:-} ]] &&
    [[ $(stat -c %d "$1") != "$(stat -c %d "$MINSKY_SHARED" 2>/dev/null)" ]] &&
    [[ $(stat -f -c %T "$1") =~ ^(tmpfs|overlayfs|ext2/ext3|xfs|btrfs|zfs)$ ]]
}

launch=() gpus=''
if [[ -n ${SLURM_JOB_ID:-} ]]; then
  # Submitted in a directory that only the submit host has, the job runs in a directory of that name on the
  # node, or in /tmp. Its output lies there too, so the sentence goes to the home directory as well.
  if stays_here .; then
    sentence="job $SLURM_JOB_ID was submitted in $SLURM_SUBMIT_HOST:$SLURM_SUBMIT_DIR, a directory that the"
    sentence+=" nodes do not share: submit it from your home directory or another one below $MINSKY_SHARED"
    echo "minsky: $sentence" >"$HOME/${SLURM_JOB_NAME:-lab}-$SLURM_JOB_ID.out" || true
    stop "$sentence"
  fi
  [[ $(srun --mpi=list 2>&1) == *pmix* ]] || stop "srun has no PMIx here (srun --mpi=list), so ranks would not find" \
    "each other: install Slurm's PMIx plugin (Debian: slurm-wlm-plugins)"

  # srun does not take --cpus-per-task from sbatch (since Slurm 22.05). Without one, a rank gets its share of
  # the smallest node, or its GPU's.
  cpus=$(tr , '\n' <<<"$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1)
  # Not SLURM_TASKS_PER_NODE: for a whole node without a task count that is the number of its CPUs.
  tasks=$(((${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES} + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
  launch=(srun --mpi=pmix --kill-on-bad-exit=1) parts=$tasks

  # GPUs of each node, "4 of p100" or "0", the fewest first. Not from the environment: a job that has its nodes to
  # itself (--exclusive) holds all their GPUs, of which its steps get by themselves what it asked for.
  held=$(scontrol --details show job "$SLURM_JOB_ID" 2>/dev/null | grep ' CPU_IDs=' |
    sed -E 's/.* GRES=([^ ]*,)?gpu:(([^:(]+):)?([0-9]+)\(.*/\4 of \3/; t; s/.*/0/' | sort -n -u) || true
  least=${held%%[!0-9]*} held=${held##*$'\n'} most=${held%%[!0-9]*}
  if ((${most:-0})); then
    gpus="$([[ $least == "$most" ]] || echo "$least to ")${held% of }" binding=cores
    # Slurm refuses to bind more ranks than there are cores, and a node that poses as another has few.
    [[ -e /etc/minsky/simulated ]] && gpus+=' (simulated)' binding=none
    gpus+=' per node'
    if [[ $MINSKY_IMAGE == *-cuda*.sif ]]; then
      ((least > 0)) || stop "some nodes of this job have no GPUs, and ranks with and without cannot train together:" \
        "sbatch --gpus-per-node=N, or name an image without CUDA in MINSKY_IMAGE"
      ((tasks <= most)) || stop "$tasks ranks on a node have $most GPUs there, and NCCL refuses two ranks on one:" \
        "sbatch --ntasks-per-node=$most, or name an image without CUDA in MINSKY_IMAGE"
    fi
    if [[ $MINSKY_IMAGE == *-cuda*.sif || $binding == none ]]; then
      ((tasks >= most)) || gpus+=", $((most - tasks)) idle: --ntasks-per-node=$most gives each a rank"
      # Each rank sees all GPUs that the job has on its node, and takes the one of its number: NCCL cannot copy over
      # NVLink to a GPU that is hidden from it, as --gpus-per-task would hide it. Ranks fill the sockets one after
      # the other, as GPUs are numbered, each with a GPU's share of the cores: those of its GPU's socket. By default
      # Slurm would deal the sockets out in turn.
      ((least == most)) && launch+=(--ntasks-per-node="$tasks" --gpus-per-node="$most") # else as the job has them
      launch+=(--gpu-bind=none --distribution=block:block --cpu-bind="$binding")
      # srun would read these, too
      unset "${!SLURM_GPUS_PER_@}" SLURM_GPUS SLURM_NTASKS_PER_GPU SLURM_TRES_PER_TASK
      export CUDA_DEVICE_ORDER=PCI_BUS_ID # as Slurm numbers them, not the fastest first
      parts=$((tasks > most ? tasks : most))
    else
      gpus+=', not used: the image is one for CPUs'
    fi
  elif [[ -e /dev/nvidiactl ]]; then
    gpus='none: the job asked for none (sbatch --gpus-per-node=N)'
  fi
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-$((cpus > parts ? cpus / parts : 1))}
fi

# --- MPI: what makes Horovod fast on CPUs ------------------------------------------------------------------

# Horovod's thread waits inside MPI for the other ranks, and Open MPI waits by polling: on nodes without a
# spare core that takes time from the computation (2 ranks, a core each: 0.65 of one rank's speed).
export OMPI_MCA_mpi_yield_when_idle=1
if [[ $MINSKY_IMAGE != *-cuda*.sif ]]; then
  # How often, in ms, that thread asks all ranks what is ready, and so the least that a step takes: with 3 the CNN
  # gains nothing that can be measured, and steps of a fraction of a ms are six times as slow.
  export HOROVOD_CYCLE_TIME="${HOROVOD_CYCLE_TIME:-0.3}"
  # Small tensors share a message, into and out of which they are copied; a large one travels faster alone.
  export HOROVOD_FUSION_THRESHOLD="${HOROVOD_FUSION_THRESHOLD:-1048576}"
fi
# Ranks of one node copy straight from each other's memory, which the kernel forbids between containers that
# have a user namespace each; Open MPI would print a line per message. Shared memory does it, with one copy more.
export OMPI_MCA_btl_vader_single_copy_mechanism=none
# A rank that ends says why itself; fifteen lines by each of the others would bury that.
export OMPI_MCA_btl_base_warn_peer_error=0

# --- Apptainer: the image, with the labs, the data and this directory in it --------------------------------

inside=()
export PYTHONPATH=$jobs APPTAINERENV_PYTHONPATH=$jobs PYTHONDONTWRITEBYTECODE=1
image=$MINSKY_IMAGE
if [[ -r $MINSKY_IMAGE ]] && command -v apptainer >/dev/null; then
  binds=("$jobs" "$PWD") option='' left=''
  for word; do # the lab's arguments: what exists, and of directories yet to be made, where they will lie
    [[ $word == --*=* ]] && option=${word%%=*} word=${word#*=}
    if [[ $option == --results || $option == --data-dir || -e $word ]]; then
      place=$(realpath --canonicalize-missing -- "$word")
      until [[ -d $place ]]; do place=$(dirname "$place"); done
      [[ $place == / || " ${binds[*]} " == *" $place "* ]] || binds+=("$place")
      [[ ${SLURM_JOB_ID:-} && $option == --results ]] && stays_here "$place" && left=$word
    fi
    option=$word
  done
  [[ -d $MINSKY_DATA_DIR ]] && binds+=("$(realpath "$MINSKY_DATA_DIR"):$MINSKY_DATA_DIR:ro")
  inside=(apptainer --quiet exec --bind "$(IFS=, && echo "${binds[*]}")")
  [[ $MINSKY_IMAGE == *-cuda*.sif ]] && inside+=(--nv)
  inside+=("$MINSKY_IMAGE")
elif [[ -z ${SLURM_JOB_ID:-} ]]; then
  missing="no apptainer"
  [[ -r $MINSKY_IMAGE ]] || missing="no image $MINSKY_IMAGE"
  command -v python >/dev/null || stop "there is $missing here, and no python on the PATH: have both, with MINSKY_IMAGE" \
    "for where the image lies, or activate an environment that has TensorFlow and Horovod"
  image="none: plain $(command -v python)"
elif [[ -r $MINSKY_IMAGE ]]; then
  stop "$HOSTNAME has no apptainer, in which the labs run: provision the node with playbooks/site.yml"
else
  stop "there is no image $MINSKY_IMAGE on $HOSTNAME: stage it with playbooks/site.yml, or set MINSKY_IMAGE in" \
    "$jobs/env.sh to where it lies"
fi

echo "nodes:   ${SLURM_JOB_NODELIST:-$HOSTNAME}"
echo "image:   $image"
here=$(nproc) threads=${SRUN_CPUS_PER_TASK:-$here}
# A node that poses as a larger one has fewer than Slurm granted. Where salloc was typed, `here` is no node.
[[ ${SLURMD_NODENAME:-} ]] && threads=$((threads < here ? threads : here))
echo "threads: $threads per rank"
[[ -z $gpus ]] || echo "gpus:    $gpus"
[[ -z ${left:-} ]] || echo "results: they stay on the node of rank 0, since the nodes do not share $left"

# --- run PROGRAM...: on every rank, in the image -----------------------------------------------------------

run() {
  [[ ${0##*/} == slurm_script ]] || exec "${launch[@]}" "${inside[@]}" "$@" # at a prompt: Ctrl-C reaches the program
  local status warned=
  # Slurm warns this shell alone that time is nearly up, and at once where the whole limit is shorter than the
  # warning: a job that has just begun has nothing to save yet, and ends with its limit.
  trap '((SECONDS < 20)) || { warned=yes && kill -USR1 "$program"; }' USR1
  "${launch[@]}" "${inside[@]}" "$@" &
  local program=$!
  while status=0 && { wait "$program" || status=$?; } && ((status > 128)) && kill -0 "$program" 2>/dev/null; do :; done
  # It has written a checkpoint and left: 75, or how srun ends ranks that leave later than the first.
  if [[ $warned && $status =~ ^(75|137|143)$ ]]; then
    scontrol requeue "$SLURM_JOB_ID" && echo "job $SLURM_JOB_ID waits again, to go on from there"
  fi
  exit "$status"
}
