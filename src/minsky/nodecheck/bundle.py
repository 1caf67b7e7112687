"""The zipapp: this package and what it imports as one file that a node's own Python runs."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipapp
from importlib.metadata import distribution
from pathlib import Path

import minsky
from minsky.errors import MinskyError

PARTS = ("__init__.py", "errors.py", "paths.py", "records.py", "gpus", "nodecheck")
LIBRARIES = {"pyyaml": "yaml", "nvidia-ml-py": "pynvml.py"}  # pure Python; the second for NVML
SAME = 315532800  # 1980, the first time that a zip can state: the same sources give the same file
MAIN = """\
import sys

if sys.version_info < (3, 9):
    print("nodecheck needs Python 3.9 or later, this is %d.%d: run it with another" % sys.version_info[:2])
    sys.exit(2)

from minsky.errors import speak_plainly
from minsky.nodecheck.__main__ import main

sys.exit(speak_plainly(main))
"""


def write(file: Path, python: str) -> None:
    """Make *file*, which *python* runs without the user's and the environment's own modules.

    Raises:
        MinskyError: this is such a file itself, or the target cannot be written.
    """
    source = Path(minsky.__file__).parent
    if not source.is_dir():
        raise MinskyError("this is the zipapp itself: copy it, or make another from a checkout")
    with tempfile.TemporaryDirectory() as made:
        stage = Path(made)
        for part in PARTS:
            _copy(source / part, stage / "minsky" / part)
        for name, module in LIBRARIES.items():
            found = distribution(name)
            _copy(Path(str(found.locate_file(module))), stage / module)
            for licence in found.files or []:
                if "LICENSE" in licence.name:
                    _copy(Path(str(found.locate_file(licence))), stage / "licenses" / name)
        (stage / "__main__.py").write_text(MAIN)
        for path in stage.rglob("*"):
            os.utime(path, (SAME, SAME))
        try:
            zipapp.create_archive(stage, file, interpreter=f"{python} -I", compressed=True)
            file.chmod(0o755)
        except OSError as error:
            raise MinskyError(
                f"{file} cannot be written ({error.strerror}): name another by --zipapp"
            ) from error


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))
    else:
        shutil.copy(source, target)
