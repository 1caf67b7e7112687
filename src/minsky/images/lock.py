"""Hashes for an image's Python packages: versions.toml names some, uv finds what those need."""

import re
import shutil
import subprocess
import tempfile
from typing import Any

from minsky.errors import MinskyError
from minsky.images.recipes import Image


def lock(wanted: Image) -> None:
    """Write images/NAME/requirements-TARGET.txt (wheels), .source.txt (compiled in the build) and +LAYER.txt.

    Raises:
        MinskyError: uv is missing, or finds no set of packages that fit.
    """
    if not shutil.which("uv"):
        raise MinskyError("uv is not on the PATH, which resolves Python packages. Type: pip install uv")
    table = wanted.pins["python"]
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--python-version", table["python"]]
    command += ["--python-platform", f"{wanted.architecture['uv']}-unknown-linux-gnu"]
    command += [f"--no-emit-package={name}" for name in table["leave_out"]]
    base = _resolve(wanted, command)
    source = {name for name, pin in wanted.python.items() if pin["form"] == "source"}
    _write(wanted, ".txt", [block for name, block in base.items() if name not in source])
    _write(wanted, ".source.txt", [block for name, block in base.items() if name in source])
    with tempfile.NamedTemporaryFile(
        "w", suffix=".txt"
    ) as fixed:  # a layer changes nothing of what is below it
        fixed.write("\n".join(block.split(" ")[0] for block in base.values()))
        fixed.flush()
        for layer in wanted.offered:
            more = _resolve(wanted.with_layers(layer), [*command, "--override", fixed.name])
            if any(pin.get("layer") == layer for pin in wanted.with_layers(layer).python.values()):
                _write(wanted, f"+{layer}.txt", [block for name, block in more.items() if name not in base])


def _resolve(wanted: Image, command: list[str]) -> dict[str, str]:
    """Lines of a requirements file by name of the package: `numpy==2.0.2`, hashes."""
    asked = "\n".join(f"{name}{_extras(pin)}=={pin['version']}" for name, pin in wanted.python.items())
    done = subprocess.run([*command, "-"], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MinskyError(
            f"uv finds no packages for the pins of {wanted.name} for {wanted.target}. Mend those in "
            f"images/versions.toml that it names, then type: {wanted.command('lock')}\n{done.stderr}"
        )
    blocks = re.findall(r"^[\w.-]+==.*(?:\n .*)*", done.stdout, re.MULTILINE)
    return {block.split("==")[0]: block for block in blocks}


def _write(wanted: Image, suffix: str, blocks: list[str]) -> None:
    head = f"# Made by `{wanted.command('lock')}` from images/versions.toml: edit that.\n"
    path = wanted.directory / f"requirements-{wanted.target}{suffix}"
    path.write_text(head + "\n".join(blocks) + "\n")


def _extras(pin: dict[str, Any]) -> str:
    """`[and-cuda]`, or nothing."""
    return f"[{','.join(pin['extras'])}]" if "extras" in pin else ""
