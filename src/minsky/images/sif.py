"""A Docker image as one Apptainer file (SIF), zstd-compressed by all cores."""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from docker.errors import ContainerError

from minsky import system
from minsky.errors import MinskyError
from minsky.images import build
from minsky.images.build import ensure
from minsky.images.engine import clock, console, docker, locked
from minsky.images.recipes import Image, image
from minsky.paths import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRATCH = 0.4  # of what building takes: the image's files thrice, as a tar or unpacked, and the SIF
_SCRIPT = Path(__file__).with_name("convert.sh")
_SQUASHFS = (
    "-comp zstd -Xcompression-level 3 -b 256K -no-progress"  # level 9: 7 % smaller, five times the work
)


def ensure_sif(name: str, target: str | None = None) -> Path:
    """The SIF of image *name* in the cache, converted (and the image built) first if it is not there.

    Raises:
        MinskyError: as `ensure`, or no space, or a failed conversion.
    """
    wanted = image(name, target)
    path = sif_path(wanted)
    with locked(f"sif-{name}-{wanted.target}"):
        if not path.exists():
            tag = ensure(name, target)
            _convert(wanted, tag, path)
            for old in path.parent.glob(f"{_stem(wanted)}-????????????.sif"):
                if old != path:
                    old.unlink()
    return path


def needs(name: str, target: str | None = None) -> list[system.Need]:
    """Room that `ensure_sif` would want, for `system.refuse_shortage`; none for a SIF that is there."""
    wanted = image(name, target)
    if sif_path(wanted).exists():
        return []
    tool = [] if shutil.which("apptainer") else build.needs("apptainer")
    conversion = (CACHE, _SCRATCH * wanted.recipe.NEEDS_GB, f"converting image {name}")
    return [*build.needs(name, target), *tool, conversion]


def sif_path(wanted: Image) -> Path:
    """Where the SIF lies: `CACHE/sif/lab-x86_64-KEY.sif`; KEY covers the image and the conversion."""
    made_from = f"{definition(wanted)} {_SQUASHFS} {_SCRIPT.read_text()}"
    return CACHE / "sif" / f"{_stem(wanted)}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}.sif"


def _stem(wanted: Image) -> str:
    """`lab-x86_64`, and `lab-x86_64-cuda` where the accelerator is more than the CPU."""
    accelerator = wanted.target.accelerator
    return f"{wanted.name}-{wanted.target.arch}" + ("" if accelerator == "cpu" else f"-{accelerator}")


def _convert(wanted: Image, tag: str, path: Path) -> None:
    system.refuse_shortage(needs(wanted.name, str(wanted.target)))
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".unfinished-{_stem(wanted)}-*"):
        shutil.rmtree(abandoned)
    begin = time.monotonic()
    console.print(f"[{wanted.name}] converting {tag} to a SIF (about a minute)")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".unfinished-{_stem(wanted)}-") as scratch:
        _export(tag, Path(scratch) / "rootfs.tar")
        (Path(scratch) / "image.def").write_text(definition(wanted))
        _run(Path(scratch), wanted)
        (Path(scratch) / "image.sif").rename(path)
    size = path.stat().st_size / 1e6
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} {path} is ready, {size:.0f} MB")


def definition(wanted: Image) -> str:
    """The definition file: the unpacked image, with the environment that Docker keeps beside it."""
    exports = "\n".join(f"    export {k}={shlex.quote(v)}" for k, v in wanted.environment.items())
    return (
        f"Bootstrap: localimage\nFrom: rootfs\n\n%labels\n    minsky.image {wanted.tag}\n"
        f"    minsky.target {wanted.target}\n\n%environment\n{exports}\n"
    )


def _export(tag: str, path: Path) -> None:
    container = docker().containers.create(tag, "true", labels={"minsky": "1"})
    try:
        with path.open("wb") as file:
            for chunk in cast("Iterator[bytes]", container.export(chunk_size=8 << 20)):
                file.write(chunk)
    finally:
        container.remove(force=True)


def _run(scratch: Path, wanted: Image) -> None:
    script = scratch / _SCRIPT.name
    shutil.copy(_SCRIPT, script)
    squashfs = f"{_SQUASHFS} -processors {os.cpu_count()}"
    if shutil.which("apptainer"):
        done = subprocess.run(
            ["sh", script.name],
            cwd=scratch,
            env={**os.environ, "SQUASHFS": squashfs},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        failed, said = bool(done.returncode), done.stdout
    else:
        try:
            docker().containers.run(
                ensure("apptainer"),
                ["sh", script.name],
                working_dir="/convert",
                volumes={str(scratch): {"bind": "/convert", "mode": "rw"}},
                environment={
                    "SQUASHFS": squashfs,
                    "APPTAINER_TMPDIR": "/convert",
                    "APPTAINER_CACHEDIR": "/convert/cache",
                },
                labels={"minsky": "1"},
                network_disabled=True,
                remove=True,
            )
        except ContainerError as error:
            failed, said = True, cast("bytes", error.stderr or b"").decode(errors="replace")
        else:
            failed, said = False, ""
    if failed:
        raise MinskyError(
            f"Apptainer made no SIF of {wanted.tag}. Mend what its last lines say (MINSKY_CACHE=DIR puts "
            f"SIFs on another disk), then type: python -m minsky.images convert {wanted.name}\n{said[-2000:]}"
        )
