"""`python -m minsky.images`: list, render, lock, build, bundle, test and convert images."""

import argparse
import itertools
import json
import platform
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from docker.errors import ImageNotFound
from rich.console import Console
from rich.table import Table

from minsky.errors import MinskyError, speak_plainly
from minsky.images import build, bundle, recipes, sbom, sif
from minsky.images.engine import docker
from minsky.images.lock import lock
from minsky.images.push import push
from minsky.paths import ROOT

_EPILOG = """\
an image is a directory images/NAME with a recipe.py; its pins stand in images/versions.toml

examples:
  python -m minsky.images list                               what there is, and what is built
  python -m minsky.images build lab                          build and test it, unless it is unchanged
  python -m minsky.images build lab --accelerator cuda       the same for NVIDIA's GPUs
  python -m minsky.images build lab --arch ppc64le           for POWER8; emulated where this machine is none
  python -m minsky.images build lab --format sif             as one Apptainer file; prints its path
  python -m minsky.images bundle lab DIR                     gather all that building it needs
  python -m minsky.images build lab --from-bundle DIR        build it elsewhere, without a network
  python -m minsky.images test lab                           run images/lab/selftest.py in the image as it is
  python -m minsky.images inspect lab                        its labels, layers, packages and licences
  python -m minsky.images render                             after changing a recipe or a pin
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

    def verb(
        name: str, run: Callable[[argparse.Namespace], None], explanation: str
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=explanation, description=explanation)
        made.set_defaults(run=run)
        return made

    def image_verb(
        name: str, run: Callable[[argparse.Namespace], None], explanation: str
    ) -> argparse.ArgumentParser:
        made = verb(name, run, explanation)
        made.add_argument("name", metavar="NAME", help="a directory of images/ that has a recipe.py")
        made.add_argument(
            "--arch", default=platform.machine(), help="as `uname -m` names it (default: %(default)s)"
        )
        made.add_argument("--accelerator", default="cpu", help="cpu (the default) or cuda")
        made.add_argument("--variant", default="", help="another line of versions, such as keras2")
        made.add_argument(
            "--with", dest="layers", metavar="LAYER,...", default="", help="optional layers, as jupyter"
        )
        made.add_argument(
            "--build-arg",
            dest="arguments",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help="another value of a build argument, as CUDA=12.2; may be repeated",
        )
        return made

    verb(
        "list",
        _list,
        "every image and target, with its key and whether it is built; with optional layers where it is",
    )
    verb("render", _render, "write images/rendered").add_argument(
        "name", metavar="NAME", nargs="?", help="only this image's"
    )
    verb("lock", _lock, "resolve the image's Python packages and write their hashes (needs uv)").add_argument(
        "name", metavar="NAME"
    )
    built = image_verb(
        "build", _build, "build and test the image; prints its Docker tag, or the path of its SIF"
    )
    built.add_argument(
        "--from-bundle", type=Path, metavar="DIR", help="without a network, from what `bundle` put into DIR"
    )
    image_verb(
        "bundle", _bundle, "build the image and gather all that it took, to build it without a network"
    ).add_argument("directory", type=Path, metavar="DIR", help="to be made")
    for made in (
        built,
        image_verb("test", _test, "run the image's self-test in it and print what that says"),
    ):
        made.add_argument(
            "--format", choices=("docker", "sif"), default="docker", help="default: %(default)s"
        )
    image_verb("inspect", _inspect, "where the image comes from, what is in it, and under which licences")
    image_verb("push", _push, "push the Docker image; prints the digest that names it").add_argument(
        "repository", metavar="REGISTRY/NAME", help="as `docker push` takes it, without a tag"
    )
    image_verb("convert", _convert, "make an Apptainer file of the Docker image; prints its path")
    chosen = parser.parse_args()
    chosen.run(chosen)
    return None


def _image(chosen: argparse.Namespace) -> recipes.Image:
    target = recipes.Target(chosen.arch, chosen.accelerator, chosen.variant)
    layers = filter(None, map(str.strip, chosen.layers.split(",")))
    given = dict(argument.partition("=")[::2] for argument in chosen.arguments)
    return recipes.image(chosen.name, str(target)).with_layers(*layers).with_arguments(given)


def _lock(chosen: argparse.Namespace) -> None:
    pinned = [image for image in recipes.targets(chosen.name) if image.python]
    if not pinned:
        print(f"Image {chosen.name} pins no Python packages in images/versions.toml: nothing to lock.")
    for image in pinned:
        lock(image)


def _build(chosen: argparse.Namespace) -> None:
    image = _image(chosen)
    if chosen.from_bundle:
        if not (Path(chosen.from_bundle) / "manifest.json").is_file():
            raise MinskyError(f"{chosen.from_bundle} is no bundle; `bundle IMAGE DIR` makes one.")
        bundle.ensure(image, chosen.from_bundle)
    if chosen.format == "sif":
        _convert(chosen)
        return
    print(build.ensure(image))
    _record_packages(image)


def _bundle(chosen: argparse.Namespace) -> None:
    image = _image(chosen)
    bundle.record(image, chosen.directory)
    print(chosen.directory)
    _record_packages(image)


def _convert(chosen: argparse.Namespace) -> None:
    print(sif.ensure_sif(_image(chosen)))


def _push(chosen: argparse.Namespace) -> None:
    print(push(_image(chosen), chosen.repository))


def _test(chosen: argparse.Namespace) -> None:
    image = _image(chosen)
    if chosen.format == "sif":
        print(build.selftest(image, str(sif.ensure_sif(image)), sif.in_apptainer))
    else:
        print(build.selftest(image, build.ensure(image)))


def _inspect(chosen: argparse.Namespace) -> None:
    image = _image(chosen)
    try:
        found = docker().images.get(image.tag)
    except ImageNotFound:
        raise MinskyError(
            f"{image.tag} is not built, so there is nothing to look into. Type: {image.command('build')}"
        ) from None
    bill = sbom.path(image) if sbom.path(image).exists() else sbom.write(image, image.tag)
    kinds = [part["purl"].split("/")[0] for part in json.loads(bill.read_text())["components"]]
    path = sif.found(image)
    licences = [f"{count} {name}" for name, count in sbom.licences(bill).items()]
    rarer = len(licences[20:])
    facts = Table("image", f"{image.tag} for {image.target}", box=None)
    for label, value in sorted(found.labels.items()):
        facts.add_row(label, value)
    facts.add_row("Docker", f"{found.attrs['Size'] / 1e6:.0f} MB")
    facts.add_row("SIF", f"{path.stat().st_size / 1e6:.0f} MB" if path else "not made")
    counted = {"Debian": "pkg:deb", "Python": "pkg:pypi", "conda": "pkg:conda"}
    facts.add_row("packages", ", ".join(f"{kinds.count(kind)} of {name}" for name, kind in counted.items()))
    facts.add_row("licences", ", ".join(licences[:20]) + (f", and {rarer} rarer ones" if rarer else ""))
    layers = Table("MB", "made by (the largest layers)", box=None)
    for layer in sorted(found.history(), key=lambda layer: -layer["Size"])[:8]:
        made_by = re.sub(r"^/bin/sh -c (#\(nop\))?|:\w{64}", "", layer["CreatedBy"] or layer["Comment"])
        if layer["Size"]:
            layers.add_row(f"{layer['Size'] / 1e6:.2f}", textwrap.shorten(made_by, 70, placeholder=" ..."))
    Console(markup=False, highlight=False).print(facts, layers, sep="\n")
    print(f"SBOM: {bill}")


def _variants(image: recipes.Image) -> list[recipes.Image]:
    """The image as it is, and with every choice of its optional layers."""
    counts = range(len(image.offered) + 1)
    return [image.with_layers(*some) for n in counts for some in itertools.combinations(image.offered, n)]


def _list(_: argparse.Namespace) -> None:
    table = Table("image", "target", "base", "Docker tag", "built", "SIF", box=None)
    try:
        client = docker()
    except MinskyError:
        client = None
    for image in itertools.chain(*map(_variants, itertools.chain(*recipes.catalogue().values()))):
        built = "no Docker"
        if client:
            try:
                built = f"{client.images.get(image.tag).attrs['Size'] / 1e6:.0f} MB"
            except ImageNotFound:
                built = "-"
        path = sif.found(image)
        size = "-" if "sif" in image.formats else ""
        if path:
            size = f"{path.stat().st_size / 1e6:.0f} MB"
        if path or built.endswith("MB") or not image.target.layers:
            table.add_row(image.name, str(image.target), image.base["distribution"], image.tag, built, size)
    Console(width=200).print(table)  # a key that is cut off names nothing, in a pipe least of all


def _render(chosen: argparse.Namespace) -> None:
    images = [recipes.targets(chosen.name)] if chosen.name else recipes.catalogue().values()
    for image in itertools.chain(*images):
        for path, text in image.texts().items():
            fresh = path.exists() and path.read_text() == text
            path.write_text(text)
            print(f"{path.relative_to(ROOT)}: {'unchanged' if fresh else 'written'}")


def _record_packages(image: recipes.Image) -> None:
    """Keep the committed list of resolved packages true to what was just built."""
    if image.target.layers or image.overrides:
        return
    listed = build.packages(image)
    if not image.packages.exists() or image.packages.read_text() != listed:
        try:
            image.packages.write_text(listed)
        except OSError as error:  # a checkout that others own
            print(f"{image.packages.relative_to(ROOT)} would change: {error}", file=sys.stderr)
        else:
            print(f"{image.packages.relative_to(ROOT)} has changed: commit it", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
