# shellcheck shell=sh
# What depends on the site: edit it here, once. For your shell (`. jobs/env.sh`), where sbatch reads
# SBATCH_*, and for the jobs, which read image and data.
: "${MINSKY_SHARED:=/shared}"                                    # the file system that all nodes share
: "${MINSKY_IMAGE:=$MINSKY_SHARED/images/lab-$(uname -m).sif}"   # the container in which labs run
: "${MINSKY_DATA_DIR:=$MINSKY_SHARED/data}"                      # holds mnist/ and the other data sets
export MINSKY_SHARED MINSKY_IMAGE MINSKY_DATA_DIR

# export SBATCH_PARTITION=...     # without them, Slurm's defaults
# export SBATCH_ACCOUNT=...
# export SBATCH_RESERVATION=...
