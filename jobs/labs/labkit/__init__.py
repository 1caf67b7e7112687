"""The plumbing that the labs share: ranks and threads, data, plan, progress, checkpoints, results.

Nothing here imports TensorFlow or Horovod before it is used, so a wrong option or a damaged file is
refused in a fraction of a second, and the parts that only compute are tested anywhere.
"""


class LabError(Exception):
    """Something the user can mend: what was found, why it cannot work, what to do instead."""
