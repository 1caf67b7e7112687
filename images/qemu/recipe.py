"""The emulator that builds and tests images of POWER8 elsewhere, as one static program."""

from hpccm import Stage

from minsky.images.recipes import Image
from minsky.images.strict import apt_get, copy, shell, stage

TARGETS = {"x86_64-cpu": {"base": "trixie", "needs_gb": 2}}
BUILT_WITH = "/usr/share/built-with.txt"
FORMATS = ("docker",)
UNTESTED = "it has no Python, and whoever registers it asks two instructions whether it is a POWER8"


def stages(image: Image) -> list[Stage]:
    """`package`, with emulators of thirty machines, and `qemu`, with one."""
    package = stage(image, "package")
    package += apt_get(ospackages=["qemu-user"])
    package += shell(
        commands=[f"dpkg-query -W -f '${{Package}} ${{Version}} package\\n' qemu-user >{BUILT_WITH}"]
    )
    qemu = stage(image, "qemu")
    for path in ("/usr/bin/qemu-ppc64le", BUILT_WITH):
        qemu += copy(_from="package", src=path, dest=path)
    return [package, qemu]
