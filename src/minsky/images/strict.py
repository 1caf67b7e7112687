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


def stage(image: "Image", name: str) -> hpccm.Stage:
    """A build stage from the base of *image*, labelled as ours so that `images` may prune it.

    Base, distribution and architecture are stated to hpccm, which would guess them.
    """
    made = hpccm.Stage(name=name)
    base = _strict("baseimage")
    made += base(
        image="${BASE}", _as=name, _distro=_HPCCM_DISTRO[image.base["distribution"]], _arch=image.target.arch
    )
    labels = {"minsky": "1", "minsky.image": image.name, "minsky.target": str(image.target)}
    made += _strict("label")(metadata=labels)
    return made


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
        with warnings_raise():
            return block(*args, **keywords)

    return make


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    return _strict(name)
