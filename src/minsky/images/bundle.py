"""Builds without a network: what one build fetched, kept in a directory, answers the next one.

Both run on a Docker network that leads nowhere but to a small HTTP server, their proxy. While a bundle is
recorded, that fetches what it is asked for and keeps it; afterwards it answers from the directory alone. No
recipe knows of it, and apt and pip check signatures and hashes as ever. A bundle is `http/HOST/PATH`,
`images/TAG.tar` (the base system; for a foreign architecture the emulator too) and `manifest.json`: what it
is for, and every SHA-256.

A proxy cannot look into https. Where a URL is a build argument (pip's index, a conda channel), the build is
told http://HOST.https instead of https://HOST, which the proxy understands; other https is refused.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from docker.errors import APIError, DockerException

from minsky import dockerd, system
from minsky.errors import MinskyError
from minsky.images import base, build
from minsky.images.engine import console, docker, locked
from minsky.images.recipes import Image, image

_SHARE = 0.2  # of what building takes: packages are compressed
_PAGES = ("text/html", "application/vnd.pypi.simple")  # with links, which pip follows

Files = dict[str, dict[str, str]]  # by name within the bundle: sha256, and of an answer its type


def record(wanted: Image, directory: Path) -> None:
    """Build *wanted* anew, and keep in *directory* all that it needs.

    Raises:
        MinskyError: *directory* is there already or cannot be written, no space, or as `build.ensure`.
    """
    directory = directory.resolve()
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    index = python_index()
    files: Files = {}
    with locked(_name(wanted)):
        if directory.exists():
            raise MinskyError(
                f"{directory} is there already, and a bundle is made as a whole: remove it, or name another."
            )
        system.refuse_shortage(
            [
                (directory, base.NEEDS_GB + _SHARE * wanted.needs_gb, f"the bundle of image {wanted.name}"),
                (dockerd.root(), wanted.needs_gb, f"building image {wanted.name}"),
            ]
        )
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir(parents=True)
            with serving(unfinished, files, wanted, index, recording=True) as source:
                build.ensure(wanted, source)
            _save(base.ensure_base(wanted, {}), unfinished, files)
            if wanted.target.arch != platform.machine():
                _save(build.ensure(image("qemu")), unfinished, files)
            told = {"made_for": _made_for(wanted), "index": re.sub("//[^/@]*@", "//", index), "files": files}
            (unfinished / "manifest.json").write_text(json.dumps(told, indent=1) + "\n")
            unfinished.rename(directory)
        except DockerException:  # some are OSErrors
            raise
        except OSError as error:
            raise MinskyError(
                f"{directory} is not made: {error}. See that this user may write there and that there is "
                "room, then type the same command again."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    size = sum((directory / name).stat().st_size for name in files) / 1e6
    console.print(f"[{wanted.name}] {directory} is ready: {len(files)} files, {size:.0f} MB")


def ensure(wanted: Image, directory: Path) -> str:
    """The Docker tag of *wanted*, built from the bundle *directory* if it is not there.

    Raises:
        MinskyError: no such bundle, one for another image or other pins, a damaged one, or as `build.ensure`.
    """
    if not dockerd.daemon():
        raise MinskyError(
            "No Docker daemon answers, and from a bundle only Docker builds an image: `apptainer build` "
            "cannot, and --format sif converts what Docker has built. Start Docker, so that `docker info` "
            "works, and type the same command again."
        )
    with locked(_name(wanted)):
        if docker().images.list(wanted.tag):
            return wanted.tag
        manifest = verified(wanted, directory)
        for name in manifest["files"]:
            tag = name.removeprefix("images/").removesuffix(".tar")
            if name.startswith("images/") and not docker().images.list(tag):
                with (directory / name).open("rb") as archive:
                    docker().images.load(archive)
        with serving(directory, manifest["files"], wanted, manifest["index"], recording=False) as source:
            return build.ensure(wanted, source)


def verified(wanted: Image, directory: Path) -> dict[str, Any]:
    """The manifest of the bundle *directory*, of which every file is as it was recorded.

    Raises:
        MinskyError: that is not so, or the bundle is for another image or other pins.
    """
    anew = f"Where there is a network, type `{wanted.command('bundle')} DIR`"
    try:
        manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
        made_for, _ = manifest["made_for"], manifest["index"]
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MinskyError(
            f"{directory} is no bundle: its manifest.json cannot be read ({error!r}). {anew}, and name that."
        ) from error
    if made_for != _made_for(wanted):
        raise MinskyError(
            f"{directory} is a bundle of {made_for}, and wanted is {_made_for(wanted)}. {anew}, or check out "
            "the revision that the bundle was made with."
        )
    for name, sha256 in files.items():
        path = directory / name
        if not path.is_file():
            raise MinskyError(f"{path} is missing, which manifest.json lists. Copy the bundle again. {anew}.")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise MinskyError(
                f"{path} is not what was recorded: its SHA-256 is {found}, and manifest.json says {sha256}. "
                f"Copy the bundle again. {anew}."
            )
    return manifest


@contextmanager
def serving(
    directory: Path, files: Files, wanted: Image, index: str, *, recording: bool
) -> Iterator[build.Source]:
    """Within the block, builds of *wanted* can get what is in the bundle *directory*, and nothing else.

    Args:
        directory: the bundle's.
        files: its files; recording adds to them.
        wanted: an image.
        index: URL of the index of Python packages.
        recording: whether to fetch what is not in the bundle.

    Raises:
        MinskyError: that of the block, with what was asked for in vain.
    """
    with network(wanted) as (name, gateway), Server(gateway, directory, files, recording=recording) as server:
        proxies = {"http_proxy": server.url, "https_proxy": server.url, "no_proxy": ""}
        proxies |= {variable.upper(): value for variable, value in proxies.items()}
        try:
            yield build.Source(name, proxies | redirected(wanted, index), recording)
        except MinskyError as error:
            asked = "".join(f"\n    {line}" for line in dict.fromkeys(server.unanswered))  # apt asks thrice
            raise MinskyError(f"{error}\n  asked for in vain:{asked or ' nothing'}") from error


def redirected(wanted: Image, index: str) -> dict[str, str]:
    """Build arguments that are URLs, as the proxy understands them; *index* is that of Python packages."""
    arguments = {**wanted.arguments, "PIP_INDEX_URL": index}
    urls = {name: plain(value) for name, value in arguments.items() if "://" in value}
    return {**urls, "PIP_TRUSTED_HOST": urlsplit(urls["PIP_INDEX_URL"]).hostname or ""}


def python_index() -> str:
    """URL of the index that pip asks on this machine, which its help names.

    Raises:
        MinskyError: it does not.
    """
    command = [sys.executable, "-m", "pip", "download", "--help"]
    environment = {**os.environ, "COLUMNS": "500"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if named := re.search(r"--index-url <url> .*\(default (\S+)\)", said.stdout):
        return named[1]
    raise MinskyError(
        f"`{' '.join(command)}` does not say which index of Python packages pip asks, which a bundle must "
        f"know. Mend pip, then type the same command again.\n{said.stderr[-500:]}"
    )


def plain(text: str) -> str:
    """*text* with its https URLs as the proxy understands them: `http://HOST.https/...`."""
    return re.sub(r"https://((?:[\w.%:~+-]*@)?[\w.-]+)", r"http://\1.https", text)


def real(url: str) -> str:
    """What *url* was before `plain`."""
    return re.sub(r"^http://([\w.-]+)\.https(?=[:/]|$)", r"https://\1", url)


def file_name(url: str) -> str:
    """Where in a bundle the answer to *url* lies.

    Raises:
        ValueError: outside it.
    """
    parts = urlsplit(url)
    path = parts.path + ("index" if parts.path.endswith("/") else "")
    if parts.scheme != "http" or not parts.netloc or ".." in [parts.netloc, *path.split("/")]:
        raise ValueError("a proxy is asked for http://HOST/PATH")
    return f"http/{parts.netloc}{path}" + (f"?{quote(parts.query, safe='')}" if parts.query else "")


@contextmanager
def network(wanted: Image) -> Iterator[tuple[str, str]]:
    """Id and gateway, an address of this machine, of a Docker network that leads nowhere else."""
    name = _name(wanted)
    for stale in docker().networks.list([name]):  # of a run that was killed
        if stale.name == name:  # Docker lists longer names, too
            with suppress(APIError):
                stale.remove()
    try:
        made = docker().networks.create(name, driver="bridge", internal=True, labels={"minsky": "1"})
    except APIError as error:
        raise MinskyError(
            f"Docker makes no network for building {wanted.name}: {error.explanation}. `docker network ls` "
            "lists those that are there; remove one that nobody needs and type the same command again."
        ) from error
    try:
        made.reload()
        yield str(made.id), made.attrs["IPAM"]["Config"][0]["Gateway"]
    finally:
        with suppress(APIError):  # a container is still on it: left for the next run
            made.remove()


class Server(socketserver.ThreadingTCPServer):
    """A proxy that answers from a bundle; while recording, it fetches what the bundle lacks."""

    # no HTTPServer, which asks a name server what its own address is called, and waits where there is none
    daemon_threads = True

    def __init__(self, address: str, directory: Path, files: Files, *, recording: bool) -> None:
        try:
            super().__init__((address, 0), _Handler)
        except OSError as error:
            raise MinskyError(
                f"{address}, the gateway of a Docker network, is no address of this machine ({error}), so "
                "builds cannot be cut off from the network: that takes a Docker that root runs, on Linux."
            ) from error
        self.url = f"http://{address}:{self.server_address[1]}"
        self.directory, self.files, self.recording = directory, files, recording
        self.unanswered: list[str] = []  # URLs, and why
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self.answering = False
        try:
            name = file_name(self.path)
            if name in self.server.files:
                with (self.server.directory / name).open("rb") as file:
                    size, kind = os.fstat(file.fileno()).st_size, self.server.files[name]["type"]
                    self._send(_pieces(file), size, kind)
            elif self.server.recording:
                self._fetch(name)
            else:
                self._refuse(404, "not in the bundle")
        except HTTPError as error:
            self._refuse(error.code, error.reason)
        except (OSError, ValueError, HTTPException) as error:
            self._refuse(502, str(error))

    do_HEAD = do_GET  # noqa: N815 - who asks for the head alone will want the rest

    def do_CONNECT(self) -> None:
        self.answering = False
        self._refuse(501, "a proxy cannot look into https: fetch from a URL that is a build argument")

    def log_message(self, *_: object) -> None:
        """Say nothing: what failed is in `unanswered`."""

    def _fetch(self, name: str) -> None:
        """Answer from the network."""
        request = Request(real(self.path))  # noqa: S310 - http or https
        for header in ("Accept", "Authorization", "User-Agent"):
            if value := self.headers[header]:
                request.add_header(header, value)
        with urlopen(request, timeout=60) as answer:  # noqa: S310
            source, length, kind = answer, answer.length, answer.headers["Content-Type"] or ""
            if kind.startswith(_PAGES):
                page = plain(answer.read().decode()).encode()
                source, length = BytesIO(page), len(page)
            self._send(self._keep(source, length, kind, name), length, kind)

    def _keep(self, source: IO[bytes], length: int | None, kind: str, name: str) -> Iterator[bytes]:
        """The pieces of *source*; the last one when all are in the bundle, for then a build may end."""
        unfinished = self.server.directory / f".{threading.get_ident()}"
        digest, size, last = hashlib.sha256(), 0, b""
        try:
            with unfinished.open("wb") as copy:
                for piece in _pieces(source):
                    yield last
                    copy.write(piece)
                    digest.update(piece)
                    size, last = size + len(piece), piece
            if length not in (None, size):
                raise OSError(f"{size} of {length} bytes came")
            if name not in self.server.files:
                kept = self.server.directory / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                unfinished.rename(kept)
                self.server.files[name] = {"sha256": digest.hexdigest(), "type": kind}
            yield last
        finally:
            unfinished.unlink(missing_ok=True)

    def _send(self, pieces: Iterator[bytes], length: int | None, kind: str) -> None:
        """Answer with *pieces* as they come: pip gives up after 15 s without one."""
        self.answering = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header(*("Connection", "close") if length is None else ("Content-Length", str(length)))
        self.end_headers()
        for piece in pieces:
            if self.command != "HEAD":
                self.wfile.write(piece)

    def _refuse(self, code: int, why: str) -> None:
        self.server.unanswered.append(f"{real(self.path)}: {why}")
        if self.answering:
            self.close_connection = True  # half an answer was sent: that it ends here is the error
        else:
            self.send_error(code, why)


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: source.read(1 << 20), b"")


def _save(tag: str, directory: Path, files: Files) -> None:
    """Put the Docker image *tag* into the bundle *directory*."""
    name = f"images/{tag}.tar"
    path, digest = directory / name, hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in docker().images.get(tag).save(named=tag):
            digest.update(chunk)
            file.write(chunk)
    files[name] = {"sha256": digest.hexdigest()}


def _name(wanted: Image) -> str:
    return f"minsky-bundle-{wanted.name}-{wanted.target}".replace("+", ".")


def _made_for(wanted: Image) -> str:
    return f"{wanted.name} for {wanted.target} (key {wanted.key})"
