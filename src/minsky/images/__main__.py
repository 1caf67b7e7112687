"""`python -m minsky.images`: list, render, lock, build, convert and test images."""

import argparse
import itertools
import sys

from docker.errors import ImageNotFound
from rich.console import Console
from rich.table import Table

from minsky.errors import MinskyError, speak_plainly
from minsky.images import build, recipes, sif
from minsky.images.engine import docker
from minsky.images.lock import lock
from minsky.paths import ROOT

_EPILOG = """\
an image is a directory images/NAME with a recipe.py; its pins stand in images/versions.toml

examples:
  python -m minsky.images list                 what there is, and what is built
  python -m minsky.images render               after changing a recipe or a pin: write images/rendered/
  python -m minsky.images build lab            build and test it, unless its content is unchanged
  python -m minsky.images convert lab          the same as one Apptainer file; prints its path
  python -m minsky.images test lab             run images/lab/selftest.py in the image as it is
"""


def main() -> int | None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m minsky.images",
        description="Build the toolkit's images from their recipes, keyed by content.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="every image and target, with its key and whether it is built")
    for verb, explanation in {
        "render": "write the Dockerfiles under images/rendered (all images, or NAME)",
        "lock": "resolve the image's Python packages and write their hashes (needs uv)",
        "build": "build and test the image; prints its Docker tag",
        "convert": "build it and make an Apptainer SIF of it; prints the path",
        "test": "run the image's self-test and print what it says",
    }.items():
        command = verbs.add_parser(verb, help=explanation)
        command.add_argument("name", metavar="NAME", nargs="?" if verb == "render" else None)
        if verb != "render":
            command.add_argument("--target", metavar="ARCH-ACCELERATOR", help="default: the image's first")
    chosen = parser.parse_args()
    if chosen.verb == "list":
        _list()
    elif chosen.verb == "render":
        _render(chosen.name)
    elif chosen.verb == "lock":
        lock(recipes.image(chosen.name, chosen.target))
    elif chosen.verb == "build":
        print(build.ensure(chosen.name, chosen.target))
        _record_packages(recipes.image(chosen.name, chosen.target))
    elif chosen.verb == "convert":
        print(sif.ensure_sif(chosen.name, chosen.target))
    else:
        tag = build.ensure(chosen.name, chosen.target)
        print(build.selftest(recipes.image(chosen.name, chosen.target), tag))
    return None


def _list() -> None:
    table = Table("image", "target", "base", "Docker tag", "built", "SIF", box=None)
    try:
        client = docker()
    except MinskyError:
        client = None
    for images in recipes.catalogue().values():
        for image in images:
            built = "no Docker"
            if client:
                try:
                    built = f"{client.images.get(image.tag).attrs['Size'] / 1e6:.0f} MB"
                except ImageNotFound:
                    built = "-"
            path = sif.sif_path(image)
            size = f"{path.stat().st_size / 1e6:.0f} MB" if path.exists() else "-"
            table.add_row(image.name, str(image.target), image.base["distribution"], image.tag, built, size)
    Console().print(table)


def _render(name: str | None) -> None:
    chosen = [recipes.targets(name)] if name else recipes.catalogue().values()
    for image in itertools.chain(*chosen):
        text = image.dockerfile()
        fresh = image.rendered.exists() and image.rendered.read_text() == text
        image.rendered.write_text(text)
        print(f"{image.rendered.relative_to(ROOT)}: {'unchanged' if fresh else 'written'}")


def _record_packages(image: recipes.Image) -> None:
    """Keep the committed list of resolved packages true to what was just built."""
    listed = build.packages(image.tag)
    if not image.packages.exists() or image.packages.read_text() != listed:
        image.packages.write_text(listed)
        print(f"{image.packages.relative_to(ROOT)} has changed: commit it", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
