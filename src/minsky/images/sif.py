"""Images as one Apptainer file (SIF), zstd-compressed by all cores.

A Docker image is converted. Where no Docker daemon answers, the host's Apptainer builds the image by its
definition file, as the user who calls.
"""

import hashlib
import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from docker.errors import ContainerError

from minsky import dockerd, system
from minsky.errors import MinskyError
from minsky.images import base, build
from minsky.images.build import ensure
from minsky.images.engine import Progress, clock, console, docker, lines, locked
from minsky.images.recipes import Image, image
from minsky.paths import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRATCH = 0.4  # of what building takes: the image's files thrice, as a tar or unpacked, and the SIF
_SCRIPT = Path(__file__).with_name("convert.sh")
_SQUASHFS = (
    "-comp zstd -Xcompression-level 3 -b 256K -no-progress"  # level 9: 7 % smaller, five times the work
)
FUSE = Path("/dev/fuse")  # with it a SIF is mounted, without it unpacked at every start


def ensure_sif(wanted: Image) -> Path:
    """The SIF of *wanted* in the cache, made first if it is not there.

    Raises:
        MinskyError: none is made of this image, neither Docker nor Apptainer is here, no space, or a failure.
    """
    if "sif" not in wanted.formats:
        raise MinskyError(
            f"A SIF of {wanted.name} is not made, for images/{wanted.name}/recipe.py has FORMATS = "
            f"{wanted.formats}. As a Docker image: {wanted.command('build')}"
        )
    with locked(f"sif-{wanted.name}-{wanted.target}"):
        if path := found(wanted):
            return path
        if _docker_answers():
            path = sif_path(wanted)
            tag = ensure(wanted)
            system.refuse_shortage(needs(wanted))
            _make(wanted, path, lambda scratch: _convert(wanted, tag, scratch))
        else:
            path = _built_path(wanted)
            _refuse_foreign(wanted)
            _make(wanted, path, lambda scratch: _build(wanted, scratch))
    return path


def found(wanted: Image) -> Path | None:
    """The SIF of *wanted* where there is one, whichever way it was made."""
    paths = [sif_path(wanted)]
    if not wanted.target.layers:  # which a definition file cannot have
        paths.append(_built_path(wanted))
    return next((path for path in paths if path.exists()), None)


def needs(wanted: Image) -> list[system.Need]:
    """Room that converting would want, for `system.refuse_shortage`; none for a SIF that is there."""
    if found(wanted):
        return []
    tool = [] if shutil.which("apptainer") else build.needs(image("apptainer"))
    conversion = (CACHE, _SCRATCH * wanted.needs_gb, f"converting image {wanted.name}")
    return [*build.needs(wanted), *tool, conversion]


def sif_path(wanted: Image) -> Path:
    """Where the converted SIF lies: `CACHE/sif/lab-x86_64-KEY.sif`; KEY covers image and conversion."""
    return _path(wanted, f"{definition(wanted)} {_SQUASHFS} {_SCRIPT.read_text()}")


def _built_path(wanted: Image) -> Path:
    """Where the SIF lies that was built without Docker: the same, and KEY covers the definition file."""
    return _path(wanted, f"{wanted.key} {wanted.definition()} {_SQUASHFS}")


def _path(wanted: Image, made_from: str) -> Path:
    return CACHE / "sif" / f"{_stem(wanted)}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}.sif"


def _stem(wanted: Image) -> str:
    """`lab-x86_64`, and `lab-x86_64-cuda` where the accelerator is more than the CPU."""
    return f"{wanted.name}-{wanted.target}".replace("-cpu", "")


def _docker_answers() -> bool:
    """Whether to convert a Docker image; if not, there is an Apptainer that builds.

    Raises:
        MinskyError: neither is here.
    """
    try:
        if dockerd.daemon():
            return True
    except MinskyError:  # it is not for this user
        if not shutil.which("apptainer"):
            raise
    if not shutil.which("apptainer"):
        raise MinskyError(
            "Docker or Apptainer makes a SIF, but no Docker daemon answers and no apptainer is on the PATH. "
            "Start Docker, so that `docker info` works, or install Apptainer (Enterprise Linux: from EPEL; "
            "Debian: from sid; on a cluster, load its module), and type the same command again."
        )
    return False


def _refuse_foreign(wanted: Image) -> None:
    if wanted.target.arch != platform.machine():
        raise MinskyError(
            f"Without Docker, a SIF of {wanted.target.arch} is built on such a machine, and this is "
            f"{platform.machine()}: type the same command where `uname -m` says {wanted.target.arch}."
        )


def _make(wanted: Image, path: Path, fill: Callable[[Path], None]) -> None:
    """Have *fill* make image.sif in a directory of its own, and put it in its place at *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".unfinished-{_stem(wanted)}.*"):
        shutil.rmtree(abandoned)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".unfinished-{_stem(wanted)}.") as scratch:
        fill(Path(scratch))
        (Path(scratch) / "image.sif").rename(path)
    for old in path.parent.glob(f"{_stem(wanted)}-????????????.sif"):
        if old != path:
            old.unlink()
    size = path.stat().st_size / 1e6
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} {path} is ready, {size:.0f} MB")


def _environment(wanted: Image) -> dict[str, str]:
    """For mksquashfs: no file is younger than the image's base, so that equal files make an equal SIF."""
    day = datetime.fromisoformat(wanted.base["renewed"]).replace(tzinfo=UTC)
    return {"SOURCE_DATE_EPOCH": f"{day.timestamp():.0f}"}


def _squashfs() -> str:
    return f"{_SQUASHFS} -processors {os.cpu_count()}"


# --- from the Docker image ---------------------------------------------------------------------------------


def _convert(wanted: Image, tag: str, scratch: Path) -> None:
    console.print(f"[{wanted.name}] converting {tag} to a SIF (about a minute)")
    _export(tag, scratch / "rootfs.tar")
    (scratch / "image.def").write_text(_labelled(definition(wanted), tag))
    _run(scratch, wanted)


def definition(wanted: Image) -> str:
    """The definition file: the unpacked image, with the environment that Docker keeps beside it."""
    exports = "\n".join(f"    export {k}={shlex.quote(v)}" for k, v in wanted.environment.items())
    return (
        f"Bootstrap: localimage\nFrom: rootfs\n\n%labels\n    minsky.image {wanted.tag}\n"
        f"    minsky.target {wanted.target}\n    org.label-schema.build-date {wanted.base['renewed']}\n\n"
        f"%environment\n{exports}\n"
    )


def _labelled(text: str, tag: str) -> str:
    """The definition *text* with what the labels of the Docker image *tag* say of where it comes from."""
    labels = sorted(docker().images.get(tag).labels.items())
    kept = [
        f"    {k} {v}\n" for k, v in labels if k.startswith("org.opencontainers.") or k == "minsky.versions"
    ]
    return text.replace("%labels\n", "%labels\n" + "".join(kept))


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
    environment = {"SQUASHFS": _squashfs(), **_environment(wanted)}
    if shutil.which("apptainer"):
        done = subprocess.run(
            ["sh", script.name],
            cwd=scratch,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        failed, said = bool(done.returncode), done.stdout
    else:
        try:
            docker().containers.run(
                ensure(image("apptainer")),
                ["sh", script.name],
                working_dir="/convert",
                volumes={str(scratch): {"bind": "/convert", "mode": "rw"}},
                environment=environment
                | {"APPTAINER_TMPDIR": "/convert", "APPTAINER_CACHEDIR": "/convert/cache"},
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
            f"SIFs on another disk), then type: {wanted.command('convert')}\n{said[-2000:]}"
        )


# --- without Docker ----------------------------------------------------------------------------------------


def _build(wanted: Image, scratch: Path) -> None:
    _ = wanted.selftest  # refused now where it is missing
    unpacked = Path(os.environ.get("APPTAINER_TMPDIR") or tempfile.gettempdir())
    system.refuse_shortage(
        [
            (unpacked, wanted.needs_gb, f"building image {wanted.name}"),
            (CACHE, base.NEEDS_GB + _SCRATCH * wanted.needs_gb, f"the SIF of {wanted.name}"),
        ]
    )
    begin = time.monotonic()
    console.print(
        f"[{wanted.name}] building a SIF for {wanted.target} by its definition file, without Docker"
    )
    _stream(wanted, prepare(wanted, scratch), scratch, begin)
    (scratch / "image.sif").chmod(0o644)
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} testing")
    build.selftest(wanted, str(scratch / "image.sif"), in_apptainer)


def prepare(wanted: Image, scratch: Path) -> list[str]:
    """Put into the directory *scratch* all that building there takes; the command that builds image.sif."""
    for name, data in {"image.def": wanted.definition().encode(), **build.context(wanted)}.items():
        (scratch / name).write_bytes(data)
        (scratch / name).chmod(0o644)  # for all users of the SIF, whatever umask the builder has
    if base.tarball(wanted).exists() or shutil.which("mmdebstrap"):
        tarball = base.bootstrap(wanted, {})
        (scratch / "base").mkdir()
        # only root makes devices
        unpack = ["tar", "-x", "-p", "-f", str(tarball), "--anchored", "--exclude", "./dev/*"]
        if subprocess.run(unpack, cwd=scratch / "base", check=False).returncode:
            raise MinskyError(
                f"{tarball}, the base of {wanted.name}, cannot be unpacked: mend what tar says, or remove "
                "the file, which is then made or fetched anew, and type the same command again."
            )
        arguments = {"BOOTSTRAP": "localimage", "BASE": "base"}
    else:
        name, digest = wanted.base["image"], wanted.base.get("digest", {}).get(wanted.target.arch)
        arguments = {"BOOTSTRAP": "docker", "BASE": f"{name.split(':')[0]}@{digest}" if digest else name}
    # the host's fakeroot may not run in the base, and the definition brings one
    command = ["apptainer", "build", "--ignore-fakeroot-command", "--mksquashfs-args", _squashfs()]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    return [*command, "image.sif", "image.def"]


def _stream(wanted: Image, command: list[str], scratch: Path, begin: float) -> None:
    """Run *command* in the directory *scratch* and show each step as it begins."""
    passed = {f"APPTAINERENV_{name}": value for name, value in build.fetching().items()}
    with (
        subprocess.Popen(
            command,
            cwd=scratch,
            env={**os.environ, **_environment(wanted), **passed},
            umask=0o022,  # Apptainer hands the caller's to the commands of the definition
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
        Progress(wanted.name, begin) as progress,
    ):
        for line in itertools.chain.from_iterable(map(lines, cast("Iterator[str]", process.stdout))):
            if begins := re.match(r"(?:\+|INFO:) +(.*)", line):  # the shell's own account, and Apptainer's
                progress.begins(begins[1])
            else:
                progress.says(line)
    if process.returncode:
        raise MinskyError(
            f"Apptainer built no SIF of {wanted.name}: it ended with {process.returncode}.\n"
            f"Mend images/{wanted.name}/recipe.py or what the last lines name, the network or the disk "
            "(APPTAINER_TMPDIR=DIR builds on another, which must be a local one), then type the same command "
            f"again.\n{progress.account()}"
        )


# --- the image's own test ----------------------------------------------------------------------------------


def in_apptainer(wanted: Image, path: str, expected: str) -> build.Outcome:
    """Run the test of *wanted* in the SIF at *path* as an ordinary user, for `build.selftest`.

    By the host's Apptainer, else by that of the tool container. As in Docker, nothing of the host is inside.
    """
    emulated = build.emulate(wanted)
    options = [f"--env={name}={value}" for name, value in emulated.items()]
    if wanted.expected["gpu"]:
        options += ["--nv"]  # what it brings in lies on the host, and Docker shows it to the tool container
    if shutil.which("apptainer"):
        done = subprocess.run(
            start(path, str(wanted.selftest), expected, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return done.returncode, done.stdout.strip()
    become_nobody = ["exec env HOME=/tmp setpriv --reuid 65534 --regid 65534 --clear-groups"]
    if emulated:
        become_nobody.insert(0, "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc")
    if FUSE.exists():
        become_nobody.insert(0, f"chmod 666 {FUSE}")
    inner = start("/image.sif", "/tmp/selftest.py", expected, *options)  # noqa: S108
    return build.contained(
        wanted,
        ensure(image("apptainer")),
        ["sh", "-ec", "; ".join(become_nobody) + ' "$@"', "sh", *inner],
        volumes={path: {"bind": "/image.sif", "mode": "ro"}},
        environment={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
        devices=[str(FUSE)] if FUSE.exists() else [],
        cap_add=["SYS_ADMIN"] if emulated else [],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],  # or an ordinary user makes no namespace
    )


def start(path: str, script: str, expected: str, *options: str) -> list[str]:
    """The command that runs an image's test *script* in the SIF at *path*, which sees nothing of the host."""
    # not --containall: with its PID namespace comes a /proc, which inside of Docker is not to be mounted
    command = ["apptainer", "--silent", "exec", "--contain", "--cleanenv", "--ipc", *options]
    return [*command, f"--bind={script}:/mnt/selftest.py:ro", path, "python3", "/mnt/selftest.py", expected]
