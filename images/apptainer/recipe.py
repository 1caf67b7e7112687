"""The tool container that makes SIFs where the host has no Apptainer."""

from hpccm import Stage

from minsky.images.recipes import Image
from minsky.images.strict import apt_get, shell, stage

BASE = "trixie"
TARGETS = ("x86_64-cpu",)
NEEDS_GB = 1
UNTESTED = "it has no Python, and every conversion runs it"


def stages(image: Image) -> list[Stage]:
    """The one stage of the image."""
    pin = image.pins["debian"]["apptainer"]
    ours, suite = image.base["suite"], pin["suite"]
    # the package lives in one suite only, whose index may be expired on a mirror; nothing else comes from it
    preferences = "".join(
        f"Package: {package}\\nPin: release n={suite}\\nPin-Priority: {priority}\\n\\n"
        for package, priority in (("apptainer", 500), ("*", 1))
    )
    add_suite = (
        rf"sed -n 's/^deb \(\S*\) {ours} main$/deb [check-valid-until=no] \1 {suite} main/p'"
        " /etc/apt/sources.list >/etc/apt/sources.list.d/apptainer.list"
    )
    tool = stage(image, "apptainer")
    tool += apt_get(ospackages=["fuse2fs", "squashfs-tools", "squashfuse"])
    tool += shell(
        commands=[
            add_suite,
            f"printf '{preferences}' >/etc/apt/preferences.d/apptainer",
            "apt-get update",
            "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apptainer",
            f"dpkg --compare-versions $(dpkg-query -W -f '${{Version}}' apptainer) ge {pin['least']}",
            "rm -rf /var/lib/apt/lists/*",
        ]
    )
    return [tool]
