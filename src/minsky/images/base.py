"""Base root file systems: pulled by digest where a registry answers, else made from the package mirror."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.errors import DockerException, ImageNotFound

from minsky import system
from minsky.dockerd import client
from minsky.errors import MinskyError
from minsky.images.engine import clock, console, docker, locked
from minsky.images.recipes import BOOTSTRAP_OPTIONS, Image, base_key
from minsky.paths import CACHE

_PULL_SECONDS = 60
# apt's words where an index is not the one that the release names, or names files that are not there
_OUT_OF_STEP = re.compile(r"Mirror sync in progress\?|\S+\.deb +404 +Not Found")
NEEDS_GB = 0.5  # in the cache, for the tar file


class OutOfStepError(MinskyError):
    """The package mirror is between two states of an architecture."""


def ensure_base(wanted: Image, emulated: Mapping[str, str]) -> str:
    """The Docker tag of the base system of *wanted*, made if it is not there.

    Args:
        wanted: an image.
        emulated: environment that its programs need here.
    """
    base, arch = wanted.base, wanted.target.arch
    suite, key = base["suite"], base_key(base, arch)
    tag = f"minsky/base:{suite}-{arch}-{key}"
    with locked(f"base-{suite}-{arch}"):
        try:
            docker().images.get(tag)
        except ImageNotFound:
            if not _pull(base, arch, tag):
                _load(wanted, bootstrap(wanted, emulated), tag)
            _forget_older(suite, arch, tag)
    return tag


def _pull(base: dict[str, Any], arch: str, tag: str) -> bool:
    digest = base.get("digest", {}).get(arch)
    if not digest:
        return False
    try:
        reference = f"{base['image'].split(':')[0]}@{digest}"
        client(timeout=_PULL_SECONDS).images.pull(reference).tag(tag)
    except (DockerException, OSError) as error:  # requests' timeouts are OSErrors
        console.print(f"[base] {base['distribution']}: no registry ({error}); using the package mirror")
        return False
    return True


def tarball(wanted: Image) -> Path:
    """Where the base system of *wanted* lies in the cache, once `bootstrap` has made it."""
    arch = wanted.target.arch
    return CACHE / "base" / f"{wanted.base['suite']}-{arch}-{base_key(wanted.base, arch)}.tar"


def bootstrap(wanted: Image, emulated: Mapping[str, str]) -> Path:
    """A tar file of a minimal Debian, in the cache."""
    base, arch = wanted.base, wanted.target.arch
    suite, made = base["suite"], tarball(wanted)
    if made.exists():
        return made
    require_mmdebstrap()
    made.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"[base] Debian {suite} for {arch}: bootstrapping from the package mirror")
    begin = time.monotonic()
    is_suite = f'grep -q VERSION_CODENAME={suite} "$1/etc/os-release"'
    unfinished = made.with_name(f".{made.name.removesuffix('.tar')}.unfinished.tar")
    command = ["mmdebstrap", f"--architectures={wanted.architecture['debian']}", *BOOTSTRAP_OPTIONS]
    command += [*base.get("bootstrap", []), suite, str(unfinished)]
    if emulated:
        command.insert(1, "--skip=check/qemu")  # emulation.py has asked more of it
    sources = mirrors(suite)
    done = _run([*command, *sources], emulated)
    # Happens on mirrors to an architecture that few ask for; the release itself changes rarely.
    names = [suite, base["alias"]] if "alias" in base else [suite]
    for instead in [line.replace(f" {suite} ", f" {name} ") for line in sources[:1] for name in names]:
        if done.returncode and (lags := _OUT_OF_STEP.search(done.stderr)):
            console.print(
                f"[base] The mirror's files for {arch} are out of step ({lags[0]}): trying `{instead}` "
                "alone, which may lack the latest fixes"
            )
            done = _run([*command, f"--customize-hook={is_suite}", instead], emulated)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        if lags := _OUT_OF_STEP.search(done.stderr):
            raise OutOfStepError(
                f"The package mirror is between two states of Debian {suite} for {arch}, as while it takes "
                f"over a point release ({lags[0]}), so there is no base system: type the same command again "
                "in some hours, or have apt on this machine use another mirror."
            )
        said = "\n  ".join(done.stderr.splitlines()[-15:])
        raise MinskyError(
            f"`{' '.join(command)}` failed, so there is no base system of Debian {suite}. See whether the "
            f"package mirror answers (`apt-get update`), then type the same command again. It said:\n  {said}"
        )
    unfinished.rename(made)
    console.print(f"[base] Debian {suite} for {arch}: {clock(time.monotonic() - begin)}")
    return made


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def mirrors(suite: str) -> list[str]:
    """Sources of *suite* at the mirrors that this Debian host uses; none: mmdebstrap's own defaults."""
    if not shutil.which("apt-get"):
        return []
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    host = {label: uri for origin, label, uri in (t.split("|") for t in targets) if origin == "Debian"}
    if not {"Debian", "Debian-Security"} <= host.keys():
        return []
    return [
        f"deb {host['Debian']} {suite} main",
        f"deb {host['Debian']} {suite}-updates main",
        f"deb {host['Debian-Security']} {suite}-security main",
    ]


def require_mmdebstrap() -> None:
    """Install mmdebstrap where the host can, after a line that says so.

    Raises:
        MinskyError: it is missing and apt cannot bring it.
    """
    if not shutil.which("mmdebstrap"):
        system.apt_install(
            "mmdebstrap",
            "debian-archive-keyring",
            why="it makes the base systems where no container registry answers",
        )


def _load(wanted: Image, files: Path, tag: str) -> None:
    """Give Docker the files in *files* as the image *tag* of the architecture of *wanted*.

    Not by `docker import`, which takes every image for one of its own architecture. The same files are the
    same image.
    """
    with files.open("rb") as layer:
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
    made = {"created": f"{wanted.base['renewed']}T00:00:00Z"}
    configuration = made | {
        "architecture": wanted.architecture["docker"],
        "os": "linux",
        "config": {"Cmd": ["bash"], "Labels": {"minsky": "1"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [made | {"comment": f"{wanted.base['distribution']} by mmdebstrap"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    with tempfile.TemporaryFile(dir=files.parent) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in {"config.json": configuration, "manifest.json": manifest}.items():
                data = json.dumps(content).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            archive.add(files, "layer.tar")
        file.seek(0)
        docker().images.load(file)


def _forget_older(suite: str, arch: str, tag: str) -> None:
    for image in docker().images.list("minsky/base", filters={"label": "minsky=1"}):
        for old in image.tags:
            if old.startswith(f"minsky/base:{suite}-{arch}-") and old != tag:
                docker().images.remove(old)
    for made in (CACHE / "base").glob(f"{suite}-{arch}-*.tar"):
        if made.stem.rsplit("-", 1)[1] != tag.rsplit("-", 1)[1]:
            made.unlink()
