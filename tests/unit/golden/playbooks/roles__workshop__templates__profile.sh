# Written by role workshop: who is of this class runs jobs on its nodes while they are reserved.
case " $(id -Gn) " in
*" class "*)
  if scontrol show reservation class >/dev/null 2>&1; then
    export SBATCH_RESERVATION=class SALLOC_RESERVATION=class SLURM_RESERVATION=class
  fi
  ;;
esac
