"""Where an image comes from and what is in it: labels, and a bill of materials (SBOM) in CycloneDX.

The SBOM is read from the image's files on the host: of every architecture, running nothing.
Debian's copyright files speak of a package's source: a licence may be that of a file which was not packaged.
"""

import io
import json
import os
import posixpath
import re
import subprocess
import tarfile
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id, is_expression
from packageurl import PackageURL

from minsky.images.engine import docker
from minsky.images.recipes import Image
from minsky.paths import CACHE, ROOT

UNSTATED = "not machine-readable"
STATUS = "var/lib/dpkg/status"
_CONDA = re.compile(r"opt/lab/conda-meta/[^/]+\.json")
_TOLD = re.compile(
    rf"{STATUS}|usr/share/doc/[^/]+(/copyright)?|{_CONDA.pattern}"
    r"|(.*/(site|dist)-packages|opt/extra)/[^/]+\.(dist-info/METADATA|egg-info(/PKG-INFO)?)"
)
_SHORT = 60  # characters of a licence's name; beyond that, the field holds its text


def path(wanted: Image) -> Path:
    """Where the SBOM of *wanted* lies: `CACHE/sbom/lab-x86_64-cpu-KEY.cdx.json`."""
    return CACHE / "sbom" / f"{wanted.name}-{wanted.target}-{wanted.key}.cdx.json"


def write(wanted: Image, tag: str) -> Path:
    """Write the SBOM of *wanted*, which Docker has as *tag*, in place of older ones; its path."""
    made = path(wanted)
    made.parent.mkdir(parents=True, exist_ok=True)
    container = docker().containers.create(tag, "true", labels={"minsky": "1"})
    try:
        chunks = cast("Iterator[bytes]", container.export(chunk_size=1 << 20))
        text = document(wanted, io.BufferedReader(_Stream(chunks), 1 << 20))
    finally:
        container.remove(force=True)
    unfinished = made.with_name(f".{os.getpid()}-{made.name}")
    unfinished.write_text(text)
    unfinished.rename(made)
    for old in made.parent.glob(f"{wanted.name}-{wanted.target}-????????????.cdx.json"):
        if old != made:
            old.unlink()
    return made


def document(wanted: Image, files: IO[bytes]) -> str:
    """The SBOM as JSON; the same text for the same content, and so without the time of day.

    Args:
        wanted: the image.
        files: its files, as a tar stream.
    """
    texts = _texts(files)
    built_from = [
        f"{name} {pin['least']} or later of {pin['suite']}, in stage {pin['stage']}"
        for name, pin in wanted.debian.items()
        if "stage" in pin
    ]
    image = Component(
        type=ComponentType.CONTAINER,
        name=wanted.name,
        version=wanted.key,
        purl=PackageURL("docker", "minsky", wanted.name, wanted.key),
        bom_ref="image",
        properties=[
            Property(name="minsky:target", value=str(wanted.target)),
            *(Property(name="minsky:built-from", value=package) for package in built_from),
        ],
    )
    distribution = wanted.base["distribution"].lower().replace(" ", "-")
    parts = (*_debian(texts, distribution), *_python(texts), *_conda(texts))
    inside = {str(part.purl): part for part in parts}
    bom = Bom(components=inside.values())
    bom.metadata.component = image
    bom.register_dependency(image, inside.values())
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    del made["metadata"]["timestamp"], made["serialNumber"]
    content = json.dumps(made, sort_keys=True)
    made["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, content).urn
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def licences(sbom: Path) -> dict[str, int]:
    """Licence -> number of packages that name it, the most frequent first; a package may name several."""
    found: Counter[str] = Counter()
    for part in json.loads(sbom.read_text()).get("components", []):
        named = [entry.get("expression") or entry["license"] for entry in part.get("licenses", [])]
        found.update(n if isinstance(n, str) else n.get("id") or n["name"] for n in named or [UNSTATED])
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def labels(wanted: Image, root: Path = ROOT) -> dict[str, str]:
    """Labels that say where the image comes from; what the checkout *root* cannot say is left out."""
    revision = _git(root, "rev-parse", "HEAD")
    if revision and _git(root, "status", "--porcelain", "--", "images", "src/minsky/images"):
        revision += "-dirty"
    origin = urlsplit(_git(root, "remote", "get-url", "origin"))
    public = origin._replace(netloc=origin.netloc.rpartition("@")[2], query="", fragment="")
    cuda = wanted.arguments.get("CUDA")
    pins = sorted((wanted.python | wanted.conda).items())
    pinned = [(name, pin["version"].format(cuda=cuda)) for name, pin in pins]
    found = {
        "org.opencontainers.image.title": wanted.name,
        "org.opencontainers.image.version": wanted.key,
        "org.opencontainers.image.revision": revision,
        "org.opencontainers.image.source": public.geturl() if public.scheme == "https" else "",
        "minsky.base": wanted.base["distribution"],  # from a registry or by mmdebstrap: the history says
        "minsky.versions": " ".join(f"{name}={version}" for name, version in pinned),
    }
    return {name: value for name, value in found.items() if value}


def _git(root: Path, *words: str) -> str:
    """What git says of the checkout itself, and not of one around it; nothing where either is missing."""
    command = ["git", "--no-optional-locks", f"--git-dir={root}/.git", f"--work-tree={root}", *words]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def _texts(files: IO[bytes]) -> dict[str, str]:
    """What the image says of its packages, by path; a link's path has the text that it leads to."""
    texts, links = {}, {}
    with tarfile.open(fileobj=files, mode="r|", bufsize=1 << 20) as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            if not _TOLD.fullmatch(name):
                continue
            if entry.issym():
                links[name] = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), entry.linkname))
            elif entry.islnk():
                links[name] = f"/{entry.linkname}"
            elif entry.isreg() and (file := tar.extractfile(entry)):
                texts[name] = file.read().decode(errors="replace")
    for name, target in links.items():
        for suffix in ("", "/copyright"):  # a file, or a package's directory that is another's
            if text := texts.get(f"{target[1:]}{suffix}"):
                texts.setdefault(f"{name}{suffix}", text)
    return texts


def installed(status: str) -> Iterator[dict[str, str]]:
    """The fields of each installed package in *status*, the text of dpkg's own list."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            yield fields


def _debian(texts: dict[str, str], distribution: str) -> Iterator[Component]:
    for fields in installed(texts.get(STATUS, "")):
        name, version = fields["Package"], fields["Version"]
        qualifiers = {"arch": fields["Architecture"], "distro": distribution}
        purl = PackageURL("deb", "debian", name, version, qualifiers)
        yield _component(name, version, purl, _declared(texts.get(f"usr/share/doc/{name}/copyright", "")))


def _declared(text: str) -> set[str]:
    """Short names of licences that a machine-readable copyright file (DEP-5) gives to files; else none."""
    if not text.lstrip().startswith("Format"):
        return set()
    names = set()
    for paragraph in re.split(r"\n\s*\n", text):  # one without Files quotes what another names
        given = re.search(r"^License:[ \t]*(\S.*?)\s*$", paragraph, re.MULTILINE)
        if given and len(given[1]) <= _SHORT and re.search(r"^(Files|Format):", paragraph, re.MULTILINE):
            names.add(_as_spdx(given[1]))
    return names


def _as_spdx(name: str) -> str:
    """A licence of Debian as SPDX calls it where only the spelling differs: `GPL-2+`, GPL-2.0-or-later."""
    if gnu := re.fullmatch(r"([AL]?GPL-\d)(\.\d)?(\+)?", name):
        return f"{gnu[1]}{gnu[2] or '.0'}-{'or-later' if gnu[3] else 'only'}"
    return {"Expat": "MIT", "Apache-2": "Apache-2.0"}.get(name, name)


def _python(texts: dict[str, str]) -> Iterator[Component]:
    for path_inside in sorted(texts):
        if path_inside.endswith(("/METADATA", "/PKG-INFO", ".egg-info")):
            told = message_from_string(texts[path_inside])
            name, version = str(told["Name"]), str(told["Version"])
            yield _component(name, version, PackageURL("pypi", None, name, version), _stated(told))


def _conda(texts: dict[str, str]) -> Iterator[Component]:
    for path_inside in sorted(filter(_CONDA.fullmatch, texts)):
        told = json.loads(texts[path_inside])
        name, version, subdir = told["name"], told["version"], told["subdir"]
        channel = urlsplit(told["channel"]).path.strip("/").removesuffix(f"/{subdir}")  # without its mirror
        qualifiers = {"build": told["build"], "channel": channel, "subdir": subdir}
        purl = PackageURL("conda", None, name, version, qualifiers)
        yield _component(name, version, purl, set(filter(None, [told.get("license")])))


def _stated(told: Message) -> set[str]:
    """Licences by a Python package's metadata: an expression, else classifiers, else a field in free text."""
    field = str(told["License"] or "").strip()
    if expression := told["License-Expression"]:
        return {str(expression)}
    if field and (fixup_id(field) or is_expression(field)):
        return {field}  # says more than a classifier: BSD-3-Clause, where that knows only BSD
    classifiers = [str(line).split(" :: ") for line in told.get_all("Classifier", [])]
    named = {words[-1] for words in classifiers if words[0] == "License"} - {"OSI Approved"}
    return named or ({field} if "\n" not in field and 0 < len(field) <= _SHORT else set())


def _component(name: str, version: str, purl: PackageURL, licences: Collection[str]) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=purl,
        bom_ref=str(purl),
        licenses=_licences(licences),
    )


def _licences(names: Collection[str]) -> Iterator[License]:
    """CycloneDX allows one expression, or several licences with an identifier or a name."""
    make = LicenseFactory()
    for name in names:
        if len(names) == 1:
            yield make.make_from_string(name)
        else:
            yield make.make_with_id(name) if fixup_id(name) else make.make_with_name(name)


class _Stream(io.RawIOBase):
    """What comes in pieces, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or memoryview(next(self._pieces, b""))
        into = memoryview(buffer)
        count = min(len(into), len(self._left))
        into[:count], self._left = self._left[:count], self._left[count:]
        return count
