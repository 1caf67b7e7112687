# shellcheck shell=sh
# What depends on the site: edit it here, once. For your shell (`. jobs/env.sh`), where sbatch reads
# SBATCH_*, and for the jobs, which read image and data.
: "${MINSKY_SHARED:=/shared}"                 # the file system that all nodes share
: "${MINSKY_DATA_DIR:=$MINSKY_SHARED/data}"   # holds mnist/ and the other data sets
export MINSKY_SHARED MINSKY_DATA_DIR

# The container in which labs run. Not exported: a job finds the one for its node, not for the login host.
_minsky_lab=$MINSKY_SHARED/images/lab-$(uname -m)
if [ -e /dev/nvidiactl ] && [ ! -e /etc/minsky/simulated ] && [ -e "$_minsky_lab-cuda.sif" ]; then
  _minsky_lab=$_minsky_lab-cuda
fi
: "${MINSKY_IMAGE:=$_minsky_lab.sif}"
unset _minsky_lab

# export SBATCH_PARTITION=...     # without them, Slurm's defaults
# export SBATCH_ACCOUNT=...
# export SBATCH_RESERVATION=...
