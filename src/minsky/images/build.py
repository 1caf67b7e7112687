"""Build an image through Docker's Python SDK, test it, and only then give it its name."""

import io
import json
import os
import re
import shutil
import ssl
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
from docker.errors import APIError, ImageNotFound
from docker.types import DeviceRequest

from minsky import dockerd, system
from minsky.errors import MinskyError
from minsky.images import base, emulation, sbom
from minsky.images.engine import Progress, clock, console, docker, lines, locked, member
from minsky.images.recipes import CA_BUNDLE, Image
from minsky.paths import CACHE

PROXIES = ("http_proxy", "https_proxy", "no_proxy")  # predefined build arguments: they stay in no layer
SITE = ("PIP_INDEX_URL", "PIP_TRUSTED_HOST")  # a site's own package index

Outcome = tuple[int, str]  # exit status, output


@dataclass(frozen=True)
class Source:
    """Where a build fetches from, if not from where the host does: the proxy of a bundle."""

    network: str  # Docker's, on which it is
    arguments: dict[str, str]  # for the build
    recording: bool


def ensure(wanted: Image, source: Source | None = None) -> str:
    """The Docker tag of *wanted*, built and tested first if it is not there or *source* is to record that.

    Raises:
        MinskyError: no Docker daemon, no space, no emulation, a failed build or a failed test.
    """
    _require_docker(wanted)
    with locked(f"image-{wanted.name}-{wanted.target}"):
        try:
            there = docker().images.get(wanted.tag)
        except ImageNotFound:
            there = None
        if not there or (source and source.recording):
            _build(wanted, source)
            _forget_older(wanted)
    return wanted.tag


def _require_docker(wanted: Image) -> None:
    try:
        docker()
    except MinskyError as error:
        if "sif" in wanted.formats and not wanted.target.layers and shutil.which("apptainer"):
            raise MinskyError(
                f"{error} With Apptainer, which is here: {wanted.command('build')} --format sif"
            ) from error
        raise


def needs(wanted: Image) -> list[system.Need]:
    """Room that `ensure` would want, for `system.refuse_shortage`; none for an image that is there."""
    engine = dockerd.daemon()
    if engine and engine.images.list(wanted.tag):
        return []
    return [
        (dockerd.root(), wanted.needs_gb, f"building image {wanted.name}"),
        (CACHE, base.NEEDS_GB, f"the base system of {wanted.name}"),
    ]


def _build(wanted: Image, source: Source | None = None) -> None:
    _ = wanted.selftest  # refused now where it is missing, not after minutes of building
    system.refuse_shortage(needs(wanted))
    begin = time.monotonic()
    emulated = emulate(wanted)
    below = base.ensure_base(wanted, emulated)
    console.print(f"[{wanted.name}] building {wanted.tag} for {wanted.target}")
    built = _stream(wanted, {"BASE": below, **emulated}, begin, source)
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} testing")
    selftest(wanted, built)
    repository, _, version = wanted.tag.partition(":")
    docker().images.get(built).tag(repository, version)
    size = docker().images.get(wanted.tag).attrs["Size"] / 1e6
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} {wanted.tag} is ready, {size:.0f} MB")
    console.print(f"[{wanted.name}] what is in it: {sbom.write(wanted, wanted.tag)}")


def emulate(wanted: Image) -> dict[str, str]:
    """What programs of *wanted* need in their environment here, as `emulation.environment`."""
    return emulation.environment(wanted.target.arch, wanted.architecture.get("emulated_cpu", "max"))


def _stream(
    wanted: Image,
    arguments: dict[str, str],
    begin: float,
    source: Source | None = None,
    *,
    nocache: bool = False,
) -> str:
    """Build and show each step as it begins; the id of what was built."""
    environment = source.arguments if source else fetching()
    text = wanted.dockerfile()
    if source and not source.recording:
        # for a week an index says that it is the newest, and a bundle is older; signatures are checked still
        text = text.replace("apt-get update", "apt-get -o Acquire::Check-Valid-Until=false update")
    output = docker().api.build(
        fileobj=_context(wanted, text),
        custom_context=True,
        buildargs=arguments | environment,
        network_mode=source.network if source else None,
        nocache=nocache or bool(source and source.recording),  # a step from the cache fetches nothing
        labels=sbom.labels(wanted),
        rm=True,
        forcerm=True,
        decode=True,
    )
    stage, built = "", ""
    with Progress(wanted.name, begin) as progress:
        for message in output:
            if "error" in message:
                then = f"`{wanted.command('build')}` then goes on with this step"
                if source:
                    then = "then type the same command again"
                # the step stands below
                reason = re.sub(
                    r"(?s)The command '.*' returned", "its step returned", message["error"].strip()
                )
                raise MinskyError(
                    f"Image {wanted.name} was not built: {reason}\n"
                    f"Mend images/{wanted.name}/recipe.py or, where the last lines name it, the network; "
                    f"{then}.\n{progress.account()}"
                )
            built = message.get("aux", {}).get("ID", built)
            for line in lines(message.get("stream", "")):
                if begins := re.match(r"Step (\d+/\d+) : (.*)", line):
                    if named := re.match(r"FROM .* AS (\S+)", begins[2]):
                        _keep(wanted, stage, built)
                        stage = named[1]
                    progress.begins(begins[2], f"{stage:8} {begins[1]:>5}  ")
                elif not line.startswith(("--->", "Removing intermediate container")):
                    progress.says(line)
    return built


def _keep(wanted: Image, stage: str, built: str) -> None:
    """Tag what a stage before the last has *built*: without a name it would be pruned, and built anew."""
    if built:
        made = docker().images.get(built)
        target = made.labels["minsky.target"].replace("+", ".")  # a tag knows no plus
        made.tag("minsky/stage", f"{wanted.name}-{target}-{stage}")


def _context(wanted: Image, dockerfile: str) -> io.BytesIO:
    """The build context: Dockerfile, the files beside the recipe, and the host's CA bundle."""
    return tar_of({"Dockerfile": dockerfile.encode(), **context(wanted)})


def context(wanted: Image) -> dict[str, bytes]:
    """What a build copies from this machine: the files beside the recipe, and the host's CA bundle."""
    return {**wanted.context, CA_BUNDLE: _ca_bundle().read_bytes()}


def fetching() -> dict[str, str]:
    """Variables that tell programs how to fetch here: proxies, and a site's own index of packages."""
    environment = {k: v for k in PROXIES if (v := os.environ.get(k) or os.environ.get(k.upper()))}
    return environment | {k: v for k in SITE if (v := os.environ.get(k))}


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    """A tar archive of *files* by name, readable by everyone."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    archive.seek(0)
    return archive


def _ca_bundle() -> Path:
    """The certificates that this host trusts: behind a TLS-inspecting proxy, a build must trust them too."""
    for candidate in (
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
    ):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    return Path(certifi.where())


def selftest(wanted: Image, reference: str, run: Callable[[Image, str, str], Outcome] | None = None) -> str:
    """Run the image's own test, images/NAME/selftest.py, in a container of it; what it printed.

    Args:
        wanted: an image.
        reference: where it is: its Docker tag, or what *run* takes.
        run: how the test runs elsewhere than in Docker, told image, *reference* and what to expect.

    Raises:
        MinskyError: the test is missing, or it failed, with its last lines.
    """
    if not wanted.selftest:
        return f"Image {wanted.name} has no test of its own: {wanted.recipe.UNTESTED}."
    status, said = (run or _in_docker)(wanted, reference, json.dumps(wanted.expected))
    if status:
        tail = textwrap.indent("\n".join(said.splitlines()[-25:]), "  ")
        raise MinskyError(
            f"Image {wanted.name} fails its test images/{wanted.name}/selftest.py. Mend the recipe or a pin "
            f"in images/versions.toml, then type: {wanted.command('build')}\n{tail}"
        )
    return said


def _in_docker(wanted: Image, tag: str, expected: str) -> Outcome:
    return contained(
        wanted,
        tag,
        ["python3", "/tmp/selftest.py", expected],  # noqa: S108
        user="65534:65534",  # nobody: what an ordinary user can do is what must work
        environment={"HOME": "/tmp", **emulate(wanted)},  # noqa: S108
        shm_size="256m",
    )


def contained(wanted: Image, tag: str, command: list[str], **options: Any) -> Outcome:
    """What became of *command* in a container of the Docker image *tag* with the test of *wanted* in /tmp.

    The container sees the host's GPUs where *wanted* is for them.

    Raises:
        MinskyError: Docker cannot hand them over.
    """
    script = wanted.selftest
    assert script  # noqa: S101 - who calls has looked
    devices = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if wanted.expected["gpu"] else []
    container = docker().containers.create(
        tag, command, labels={"minsky": "1"}, device_requests=devices, **options
    )
    try:
        container.put_archive("/tmp", tar_of({script.name: script.read_bytes()}))  # noqa: S108
        try:
            container.start()
        except APIError as error:
            if not devices:
                raise
            raise MinskyError(
                f"This machine has GPUs, and Docker starts no container with them: {error.explanation}. "
                "Install NVIDIA's Container Toolkit (`nvidia-ctk runtime configure --runtime=docker`, then "
                "restart Docker), and type the same command again."
            ) from error
        status = container.wait()["StatusCode"]
        return status, container.logs().decode(errors="replace").strip()
    finally:
        container.remove(force=True)


def packages(wanted: Image) -> str:
    """What the distribution delivered: `name version` a line; `name version stage` of an earlier one."""
    tag = wanted.tag
    status = member(docker(), tag, f"/{sbom.STATUS}").decode()  # a file, which needs no emulation
    found = sorted((fields["Package"], fields["Version"]) for fields in sbom.installed(status))
    inside = "".join(f"{name} {version}\n" for name, version in found)
    path = getattr(wanted.recipe, "BUILT_WITH", "")
    before = member(docker(), tag, path).decode() if path and path in wanted.dockerfile() else ""
    only_before = [line for line in before.splitlines() if line.rpartition(" ")[0] not in inside.splitlines()]
    return inside + "".join(f"{line}\n" for line in sorted(only_before))


def _forget_older(wanted: Image) -> None:
    """Remove earlier builds of the image and their untagged stages; what a container uses stays."""
    for tag in _older(wanted):
        try:
            docker().images.remove(tag)
        except APIError:
            console.print(f"[{wanted.name}] {tag} is still in use and stays")
    docker().images.prune({"dangling": True, "label": _labels(wanted)})


def _older(wanted: Image) -> Iterator[str]:
    for found in docker().images.list(f"minsky/{wanted.name}", filters={"label": _labels(wanted)}):
        yield from (tag for tag in found.tags if tag != wanted.tag)


def _labels(wanted: Image) -> list[str]:
    """What marks this image and its stages: another image may be building at the same time."""
    return [f"minsky.image={wanted.name}", f"minsky.target={wanted.target}"]
