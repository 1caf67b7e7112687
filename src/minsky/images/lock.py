"""Hashes for an image's Python packages: versions.toml names some, uv finds what those need."""

import re
import shutil
import subprocess

from minsky.errors import MinskyError
from minsky.images.recipes import Image


def lock(wanted: Image) -> None:
    """Write images/NAME/requirements-TARGET.txt (wheels) and .source.txt (compiled in the build).

    Raises:
        MinskyError: uv is missing, or finds no set of packages that fit.
    """
    if not shutil.which("uv"):
        raise MinskyError("uv is not on the PATH, which resolves Python packages. Type: pip install uv")
    table = wanted.pins["python"]
    command = [
        *(
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--no-config",
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
        ),
        *(
            "--python-version",
            table["python"],
            "--python-platform",
            f"{wanted.target.arch}-unknown-linux-gnu",
        ),
        *(f"--no-emit-package={name}" for name in table["leave_out"]),
        "-",
    ]
    asked = "\n".join(f"{name}=={pin['version']}" for name, pin in wanted.python.items())
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MinskyError(
            f"uv finds no packages for the pins of {wanted.name}. Mend those in images/versions.toml that it "
            f"names, then type the same command again:\n{done.stderr}"
        )
    source = {name for name, pin in wanted.python.items() if pin["form"] == "source"}
    blocks = re.findall(r"^[\w.-]+==.*(?:\n .*)*", done.stdout, re.MULTILINE)
    head = f"# Made by `python -m minsky.images lock {wanted.name}` from images/versions.toml: edit that.\n"
    for suffix, compiled in ((".txt", False), (".source.txt", True)):
        chosen = [block for block in blocks if (block.split("==")[0] in source) == compiled]
        path = wanted.directory / f"requirements-{wanted.target}{suffix}"
        path.write_text(head + "\n".join(chosen) + "\n")
