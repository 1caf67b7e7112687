"""Name the images that are staged, and refuse what could not be."""

import re
import tomllib
from pathlib import Path
from typing import Any

# as minsky.images names them: lab-ARCH[-ACCELERATOR][+LAYER...]-KEY.sif
IMAGE = re.compile(r"(lab-[a-z0-9_]+(?:-[a-z0-9]+)?(?:\+[a-z0-9+]+)?)-[0-9a-f]{12}\.sif")


def image_link(path: str) -> str:
    """Name by which jobs ask for an image: ``lab-ppc64le-cuda.sif`` of ``lab-ppc64le-cuda-0123456789ab.sif``.

    It comes from the file's name: the controller may be of another architecture than the nodes.
    """
    match = IMAGE.fullmatch(Path(path).name)
    return f"{match[1]}.sif" if match else ""


def staging_refusals(images: list[str], data: list[str], pins: str) -> list[str]:
    """Say which images and data sets cannot be staged: a sentence each.

    Args:
        images: paths on this machine.
        data: names of data sets.
        pins: images/versions.toml, which describes those that there are.
    """
    said = []
    for image in images:
        if not (Path(image).is_absolute() and Path(image).is_file()):
            said.append(
                f"staging_images names {image}, which is no absolute path of a file on this machine. Give "
                "what `python -m minsky.images convert lab` prints."
            )
        elif not image_link(image):
            said.append(
                f"staging_images names {image}, whose name does not say for which machines it is. Name it "
                "as `python -m minsky.images convert lab` does: lab-ARCH-KEY.sif or, with an accelerator, "
                "lab-ARCH-ACCELERATOR-KEY.sif."
            )
    links = [link for image in images if (link := image_link(image))]
    said += [
        f"staging_images holds several images that jobs would know as {link}. Keep one of them."
        for link in sorted({link for link in links if links.count(link) > 1})
    ]
    known = tomllib.loads(Path(pins).read_text())["data"]
    said += [
        f"staging_data names {name}, which images/versions.toml does not describe. Data sets are: "
        f"{', '.join(known)}."
        for name in data
        if name not in known
    ]
    return said


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"image_link": image_link, "staging_refusals": staging_refusals}
