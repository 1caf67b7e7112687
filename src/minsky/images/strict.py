"""hpccm, called so that a slip is an error.

hpccm ignores keywords that it does not know and guesses the distribution from the image's name; both give
an image that builds and is wrong. Every primitive and building block taken from this module refuses keywords
that its documentation does not name, and a warning of hpccm raises.

    from minsky.images.strict import apt_get, shell, stage
"""

import inspect
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import hpccm
import hpccm.building_blocks
import hpccm.primitives
from hpccm.common import container_type

from minsky.errors import MinskyError

if TYPE_CHECKING:
    from minsky.images.recipes import Image

# hpccm knows no Debian: the Ubuntu of the same age, which shares its package manager and its package names
_HPCCM_DISTRO = {"Debian 12": "ubuntu22", "Debian 13": "ubuntu24"}


def documented(block: type) -> set[str]:
    """The keywords that *block*'s docstring declares under `# Parameters`."""
    section = re.search(r"# Parameters\n(.*?)(?:\n# |\Z)", inspect.getdoc(block) or "", re.DOTALL)
    return set(re.findall(r"^(\w+): ", section[1], re.MULTILINE)) if section else set()


@contextmanager
def warnings_raise() -> Iterator[None]:
    """Within the block, a warning that hpccm logs is a MinskyError."""

    class Refuse(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise MinskyError(f"hpccm warns: {record.getMessage()}. State in the recipe what it would guess.")

    handler = Refuse(logging.WARNING)
    root = logging.getLogger()  # hpccm logs to the root logger
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def stage(image: "Image", name: str, below: str = "${BASE}") -> hpccm.Stage:
    """A build stage on the base of *image* or the stage *below*, labelled as ours so that it may be pruned.

    Base, distribution and architecture are stated to hpccm, which would guess them.

    Raises:
        MinskyError: *below* is a stage, and what is rendered a definition file, which has no such thing.
    """
    made = hpccm.Stage(name=name)
    base = _strict("baseimage")
    apptainer = hpccm.config.g_ctype == container_type.SINGULARITY
    if apptainer and not below.startswith("$"):
        raise MinskyError(
            f"Apptainer's definition files have no stage on top of another, as {image.target} needs: build "
            "it where there is Docker (--format sif then converts that), or leave the layers out."
        )
    made += base(
        image="{{ BASE }}" if apptainer else below,
        _as=name,
        _distro=_HPCCM_DISTRO[image.base["distribution"]],
        _arch=image.target.arch,
        _bootstrap="{{ BOOTSTRAP }}",
        _docker_env=False,  # a file that only images out of a registry have
    )
    if apptainer:
        made += _preamble(image)
    labels = {"minsky": "1", "minsky.image": image.name, "minsky.target": str(image.target)}
    made += _strict("label")(metadata=labels)
    if cpu := image.architecture.get("emulated_cpu"):
        made += _strict("raw")(docker=_EMULATED.format(arch=image.target.arch, cpu=cpu))
    return made


# A registry gives the base of the machine that asks, unless told otherwise; the label would lie.
_EMULATED = """ARG QEMU_CPU

RUN test $(uname -m) = {arch} || {{ echo "This base is for $(uname -m), the image for {arch}: build on such \
a machine, or emulated: docker build --platform linux/{arch} --build-arg QEMU_CPU={cpu}" >&2; exit 1; }}"""


def _preamble(image: "Image") -> str:
    """How a stage of a definition file begins: build arguments, and what helps a user who has one id only."""
    defaults = {"BOOTSTRAP": "docker", **image.arguments}
    exports = [f"export {name}={{{{ {name} }}}}" for name in image.arguments if name != "BASE"]
    lines = [
        "%arguments",
        *(f"    {name}={default}" for name, default in defaults.items()),
        "%post",
        "    # a user with one id and no range in /etc/subuid: what packages ask of others, fakeroot feigns",
        """    if [ -z "$FAKEROOTKEY" ] && ! grep -qv ' 1$' /proc/self/uid_map; then""",
        "        apt-get -o APT::Sandbox::User=root update",
        "        apt-get -o APT::Sandbox::User=root install -y --no-install-recommends fakeroot",
        '        exec env FAKEROOTDONTTRYCHOWN=1 fakeroot sh -ex "$0"',
        "    fi",
        *(f"    {line}" for line in exports),
    ]
    return "\n".join(lines)


def another_suite(image: "Image", suite: str, components: str, options: str = "") -> list[str]:
    """Commands that let apt see another Debian *suite* too, at the mirror that the base of *image* uses."""
    ours = f"'Created-By: Packages' 'Codename: {image.base['suite']}' 'Label: Debian'"
    mirror = f"$(apt-get indextargets --format '$(REPO_URI)' {ours} | head -n 1)"
    line = f"deb {options}{mirror} {suite} {components}"
    return ["apt-get update", f'echo "{line}" >/etc/apt/sources.list.d/another.list', "apt-get update"]


def _strict(name: str) -> Callable[..., Any]:
    block = getattr(hpccm.primitives, name, None) or getattr(hpccm.building_blocks, name, None)
    if block is None:
        raise AttributeError(f"hpccm has no primitive or building block {name!r}")

    def make(*args: Any, **keywords: Any) -> Any:
        known = documented(block)
        if unknown := sorted(set(keywords) - known):
            raise MinskyError(
                f"A recipe says {name}({', '.join(unknown)}=...), which hpccm's {name} does not know and "
                f"would ignore; its options are {', '.join(sorted(known))}."
            )
        if name == "copy" and "_from" not in keywords:
            keywords["_post"] = True  # Apptainer copies before all commands: moved when Docker copies
        with warnings_raise():
            return block(*args, **keywords)

    return make


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    return _strict(name)
