"""Build an image through Docker's Python SDK, test it, and only then give it its name."""

import io
import json
import os
import re
import ssl
import tarfile
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import certifi
from docker.errors import APIError, ContainerError, ImageNotFound

from minsky import dockerd, system
from minsky.errors import MinskyError
from minsky.images import base
from minsky.images.engine import clock, console, docker, locked
from minsky.images.recipes import CA_BUNDLE, Image, image
from minsky.paths import CACHE

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")  # predefined build arguments: they stay in no layer
_SITE = ("PIP_INDEX_URL",)  # a site's own package index


def ensure(name: str, target: str | None = None) -> str:
    """The Docker tag of image *name*, built and tested first if it is not there.

    Raises:
        MinskyError: unknown image or target, no Docker daemon, no space, a failed build or a failed test.
    """
    wanted = image(name, target)
    with locked(f"image-{name}-{wanted.target}"):
        try:
            docker().images.get(wanted.tag)
        except ImageNotFound:
            _build(wanted)
            _forget_older(wanted)
    return wanted.tag


def needs(name: str, target: str | None = None) -> list[system.Need]:
    """Room that `ensure` would want, for `system.refuse_shortage`; none for an image that is there."""
    wanted, engine = image(name, target), dockerd.daemon()
    if engine and engine.images.list(wanted.tag):
        return []
    return [
        (dockerd.root(), wanted.recipe.NEEDS_GB, f"building image {name}"),
        (CACHE, base.NEEDS_GB, f"the base system of {name}"),
    ]


def _build(wanted: Image) -> None:
    _ = wanted.selftest  # refused now where it is missing, not after minutes of building
    system.refuse_shortage(needs(wanted.name, str(wanted.target)))
    begin = time.monotonic()
    below = base.ensure_base(wanted.base, wanted.target.arch)
    console.print(f"[{wanted.name}] building {wanted.tag} for {wanted.target}")
    built = _stream(wanted, below, begin)
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} testing")
    selftest(wanted, built)
    repository, _, version = wanted.tag.partition(":")
    docker().images.get(built).tag(repository, version)
    size = docker().images.get(wanted.tag).attrs["Size"] / 1e6
    console.print(f"[{wanted.name}] {clock(time.monotonic() - begin)} {wanted.tag} is ready, {size:.0f} MB")


def _stream(wanted: Image, below: str, begin: float) -> str:
    """Build and show each step as it begins; the id of what was built."""
    environment = {k: v for k in _PROXIES if (v := os.environ.get(k) or os.environ.get(k.upper()))}
    environment |= {k: v for k in _SITE if (v := os.environ.get(k))}
    output = docker().api.build(
        fileobj=_context(wanted),
        custom_context=True,
        buildargs={"BASE": below, **environment},
        rm=True,
        forcerm=True,
        decode=True,
    )
    step, stage, built = "", "", ""
    last: deque[str] = deque(maxlen=25)
    with console.status("") as status:  # shown on a terminal only
        for message in output:
            if "error" in message:
                said = textwrap.indent("\n".join(last), "  ")
                raise MinskyError(
                    f"Image {wanted.name} was not built: {message['error'].strip()}\n"
                    f"Mend images/{wanted.name}/recipe.py or, where the last lines name it, the network; "
                    f"`python -m minsky.images build {wanted.name}` then goes on with this step.\n"
                    f"  step: {step}\n  its last lines:\n{said}"
                )
            built = message.get("aux", {}).get("ID", built)
            for raw in message.get("stream", "").splitlines():
                if not (line := re.sub(r"\x1b\[[0-9;]*m", "", raw).strip()):
                    continue
                if begins := re.match(r"Step (\d+/\d+) : (.*)", line):
                    step = begins[2]
                    if named := re.match(r"FROM .* AS (\S+)", step):
                        stage = named[1]
                    console.print(
                        f"[{wanted.name}] {clock(time.monotonic() - begin)} {stage:8} {begins[1]:>5}  "
                        + textwrap.shorten(step, 90, placeholder=" ...")
                    )
                    last.clear()
                else:
                    last.append(line)
                    status.update(f"{clock(time.monotonic() - begin)} {line[:100]}")
    return built


def _context(wanted: Image) -> io.BytesIO:
    """The build context: Dockerfile, the files beside the recipe, and the host's CA bundle."""
    files = {
        "Dockerfile": wanted.dockerfile().encode(),
        **wanted.context,
        CA_BUNDLE: _ca_bundle().read_bytes(),
    }
    return tar_of(files)


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


def selftest(wanted: Image, reference: str) -> str:
    """Run the image's own test, images/NAME/selftest.py, in a container of it; what it printed.

    Raises:
        MinskyError: the test is missing, or it failed, with its last lines.
    """
    script = wanted.selftest
    if not script:
        return f"Image {wanted.name} has no test of its own: {wanted.recipe.UNTESTED}."
    pinned = {name: pin["version"] for name, pin in wanted.python.items()}
    command = ["python3", "/tmp/selftest.py", json.dumps(pinned)]  # noqa: S108
    container = docker().containers.create(
        reference,
        command,
        user="65534:65534",  # nobody: what an ordinary user can do is what must work
        environment={"HOME": "/tmp"},  # noqa: S108
        labels={"minsky": "1"},
        shm_size="256m",
    )
    try:
        container.put_archive("/tmp", tar_of({script.name: script.read_bytes()}))  # noqa: S108
        container.start()
        status = container.wait()["StatusCode"]
        said = container.logs().decode(errors="replace").strip()
    finally:
        container.remove(force=True)
    if status:
        tail = textwrap.indent("\n".join(said.splitlines()[-25:]), "  ")
        raise MinskyError(
            f"Image {wanted.name} fails its test images/{wanted.name}/selftest.py. Mend the recipe or a pin "
            f"in images/versions.toml, then type: python -m minsky.images build {wanted.name}\n{tail}"
        )
    return said


def packages(tag: str) -> str:
    """What the distribution delivered in image *tag*: `name version` a line, sorted."""
    try:
        listed = docker().containers.run(
            tag, ["dpkg-query", "-W", "-f", "${Package} ${Version}\n"], remove=True, labels={"minsky": "1"}
        )
    except ContainerError as error:
        raise MinskyError(
            f"dpkg-query failed in {tag}, so its packages cannot be listed: {error}. Type "
            f"`docker rmi {tag}`, then the same command again."
        ) from error
    return str(listed.decode())


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
