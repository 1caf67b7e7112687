"""Base root file systems: pulled by digest where a registry answers, else made from the package mirror."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from docker.errors import DockerException, ImageNotFound

from minsky import system
from minsky.dockerd import client
from minsky.errors import MinskyError
from minsky.images.engine import clock, console, docker, locked
from minsky.images.recipes import BOOTSTRAP_OPTIONS, DEBIAN_ARCH, base_key
from minsky.paths import CACHE

_PULL_SECONDS = 60
NEEDS_GB = 0.5  # in the cache, for the tar file


def ensure_base(base: dict[str, Any], arch: str) -> str:
    """The Docker tag of a base system from versions.toml, made if it is not there."""
    suite, key = base["suite"], base_key(base, arch)
    tag = f"minsky/base:{suite}-{arch}-{key}"
    with locked(f"base-{suite}-{arch}"):
        try:
            docker().images.get(tag)
        except ImageNotFound:
            if not _pull(base, arch, tag):
                _import(_bootstrap(base, arch, key), tag)
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


def _bootstrap(base: dict[str, Any], arch: str, key: str) -> Path:
    """A tar file of a minimal Debian, in the cache."""
    suite = base["suite"]
    tarball = CACHE / "base" / f"{suite}-{arch}-{key}.tar"
    if tarball.exists():
        return tarball
    require_mmdebstrap()
    tarball.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"[base] Debian {suite} for {arch}: bootstrapping from the package mirror (about 40 s)")
    begin = time.monotonic()
    unfinished = tarball.with_name(f".{tarball.name.removesuffix('.tar')}.unfinished.tar")
    command = ["mmdebstrap", f"--architectures={DEBIAN_ARCH[arch]}", *BOOTSTRAP_OPTIONS]
    command += [*base.get("bootstrap", []), suite, str(unfinished)]
    done = subprocess.run([*command, *mirrors(suite)], capture_output=True, text=True, check=False)
    if done.returncode:
        unfinished.unlink(missing_ok=True)
        said = "\n  ".join(done.stderr.splitlines()[-15:])
        raise MinskyError(
            f"`{' '.join(command)}` failed, so there is no base system of Debian {suite}. See whether the "
            f"package mirror answers (`apt-get update`), then type the same command again. It said:\n  {said}"
        )
    unfinished.rename(tarball)
    console.print(f"[base] Debian {suite} for {arch}: {clock(time.monotonic() - begin)}")
    return tarball


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


def _import(tarball: Path, tag: str) -> None:
    repository, _, version = tag.partition(":")
    docker().api.import_image_from_file(
        str(tarball), repository=repository, tag=version, changes=["LABEL minsky=1", 'CMD ["bash"]']
    )


def _forget_older(suite: str, arch: str, tag: str) -> None:
    for image in docker().images.list("minsky/base", filters={"label": "minsky=1"}):
        for old in image.tags:
            if old.startswith(f"minsky/base:{suite}-{arch}-") and old != tag:
                docker().images.remove(old)
    for tarball in (CACHE / "base").glob(f"{suite}-{arch}-*.tar"):
        if tarball.stem.rsplit("-", 1)[1] != tag.rsplit("-", 1)[1]:
            tarball.unlink()
