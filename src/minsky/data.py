"""Stages data sets on a shared file system, by checksum: `python -m minsky.data fetch mnist --to DIR`.

What to fetch from where stands in images/versions.toml, [data.*]. MINSKY_DATA=DIR|URL names a mirror that
is asked first; below it lie mnist/, shakespeare/ and so on, as below DIR.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from minsky.errors import MinskyError, speak_plainly
from minsky.paths import ROOT

SECONDS = 20  # without a byte, after which a mirror counts as unreachable


class NothingReachedError(MinskyError):
    """No mirror gave a file."""

    status = 3  # the labs then use what scikit-learn bundles


@dataclass(frozen=True)
class DataSet:
    """A data set: its files with their SHA-256, and the URLs below which they lie."""

    name: str
    licence: str
    files: dict[str, str]
    mirrors: list[str]


def known(pins: Path = ROOT / "images" / "versions.toml") -> dict[str, DataSet]:
    """Data sets by name, as *pins* declares them."""
    tables = tomllib.loads(pins.read_text())["data"]
    return {name: DataSet(name, **table) for name, table in tables.items()}


def fetch(data: DataSet, to: Path, first: str = "") -> list[str]:
    """Bring the files of *data* to *to*/NAME; returns a line per file that says where it came from.

    *first* (directory or URL) is asked before the mirrors. Files that are right are left alone, a damaged
    one is replaced, an interrupted download continues.

    Raises:
        NothingReachedError: no source gave a file whole.
    """
    sources = [*([f"{first.rstrip('/')}/{data.name}/"] if first else []), *data.mirrors]
    return [_fetch_file(to / data.name / name, digest, sources) for name, digest in data.files.items()]


def _fetch_file(target: Path, digest: str, sources: list[str]) -> str:
    if target.exists():
        found = sha256(target)
        if found == digest:
            return f"{target}: already there"
        print(f"{target} is damaged {_differ(found, digest)}: it is fetched again", file=sys.stderr)
    remarks = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinskyError(
            f"{target.parent} cannot be made ({error}): name another place with --to"
        ) from error
    part = target.with_name(f".{target.name}.part")
    for source in sources:
        continued = part.exists()
        try:
            _copy(f"{source}{target.name}", part)
            if continued and sha256(part) != digest:  # the part was of something else
                part.unlink()
                _copy(f"{source}{target.name}", part)
        except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
            remarks.append(f"{source}{target.name}: {error}")
            continue
        found = sha256(part)
        if found == digest:
            part.chmod(0o644)
            part.replace(target)
            return f"{target}: from {source}"
        part.unlink()
        remarks.append(f"{source}{target.name} is damaged {_differ(found, digest)}")
    why = "; ".join(remarks) or "no server is known to have it"
    raise NothingReachedError(
        f"{target.name} could not be had: {why}. Name a directory or URL that holds "
        f"{target.parent.name}/{target.name} by MINSKY_DATA=...",
    )


def _differ(found: str, digest: str) -> str:
    return f"(SHA-256 {found[:12]}..., not {digest[:12]}...)"


def _copy(source: str, part: Path) -> None:
    """Copy *source* (path or URL) to *part*; of a URL only what *part* lacks, where its server can."""
    if "://" not in source:
        shutil.copyfile(source, part)
        return
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(source, headers=headers)  # noqa: S310 - what comes is checked by SHA-256
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - the same
            more = answer.status == HTTPStatus.PARTIAL_CONTENT
            with part.open("ab" if more else "wb") as file:
                shutil.copyfileobj(answer, file)
            if answer.length:
                raise ConnectionError(f"the connection broke {answer.length} bytes before the end")
    except urllib.error.HTTPError as error:
        if (
            error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):  # which says that the part is all there is
            raise


def sha256(file: Path) -> str:
    """Return the SHA-256 of *file* in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main() -> int:
    """`list` the data sets, or `fetch` some."""
    sets = known()
    parser = argparse.ArgumentParser(
        prog="python -m minsky.data", description="Stages data sets by checksum."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what can be fetched, under which licence, from where")
    fetching = commands.add_parser("fetch", help="bring a data set to a directory")
    fetching.add_argument("names", choices=sets, nargs="+", metavar="NAME", help=", ".join(sets))
    fetching.add_argument("--to", type=Path, required=True, metavar="DIR", help="its files go to DIR/NAME")
    given = parser.parse_args()
    if given.command == "list":
        for data in sets.values():
            sources = " or ".join(data.mirrors) or "MINSKY_DATA alone"
            print(f"{data.name}: {len(data.files)} files, {data.licence}, from {sources}")
        return 0
    failures = []
    for name in given.names:
        try:
            print("\n".join(fetch(sets[name], given.to, os.environ.get("MINSKY_DATA", ""))))
        except NothingReachedError as error:
            failures.append(str(error))
    if failures:
        raise NothingReachedError("\n".join(failures))
    return 0


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
