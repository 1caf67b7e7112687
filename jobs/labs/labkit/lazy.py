"""TensorFlow and Horovod, loaded at first use instead of at the top of a lab.

Loading them takes seconds and fixes the number of threads, so options are read and threads are set
before. To a lab they look as they would after `import tensorflow as tf, horovod.tensorflow as hvd`.
"""

import importlib
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
                f"Python module {error.name} is not installed here: the labs run inside the lab image, which "
                "their job scripts start (jobs/README.md); without Slurm: bash jobs/LAB_horovod.sh",
            ) from error


tf: Any = _Lazy("tensorflow")
hvd: Any = _Lazy("horovod.tensorflow")
