"""TensorFlow, Horovod and MPI, loaded at first use instead of at the top of a lab.

Loading them takes seconds and fixes the number of threads, so options are read and threads are set
before. To a lab they look as they would after `import tensorflow as tf, horovod.tensorflow as hvd`.
"""

import importlib
import sys
from typing import Any

from labs.labkit import LabError


class _Lazy:
    """A module that is imported when the first of its names is asked for."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        """Return *name* of the module; LabError where the module is not installed."""
        try:
            return getattr(importlib.import_module(self._module), name)
        except ModuleNotFoundError as error:
            raise LabError(
                f"{sys.executable} has no module {error.name}: the labs run in the lab image, which their "
                "job scripts start on a cluster, and elsewhere with apptainer and the image (MINSKY_IMAGE); "
                "with Docker alone: docker run --rm -v $PWD/jobs:/jobs -e PYTHONPATH=/jobs IMAGE python -m "
                "labs.NAME, IMAGE being what `python -m minsky.images build lab` prints",
            ) from error


tf: Any = _Lazy("tensorflow")
hvd: Any = _Lazy("horovod.tensorflow")
MPI: Any = _Lazy("mpi4py.MPI")
