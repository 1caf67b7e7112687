"""The tool container that makes SIFs where the host has no Apptainer."""

from hpccm import Stage

from minsky.images.recipes import Image
from minsky.images.strict import another_suite, apt_get, shell, stage

TARGETS = {"x86_64-cpu": {"base": "trixie", "needs_gb": 1}}
FORMATS = ("docker",)
UNTESTED = "it has no Python, and every conversion runs it"


def stages(image: Image) -> list[Stage]:
    """The one stage of the image."""
    pin = image.debian["apptainer"]
    suite = pin["suite"]
    # the package lives in one suite only, whose index may be expired on a mirror; nothing else comes from it
    preferences = "".join(
        f"Package: {package}\\nPin: release n={suite}\\nPin-Priority: {priority}\\n\\n"
        for package, priority in (("apptainer", 500), ("*", 1))
    )
    tool = stage(image, "apptainer")
    tool += apt_get(ospackages=["fuse2fs", "squashfs-tools", "squashfuse"])
    tool += shell(
        commands=[
            f"printf '{preferences}' >/etc/apt/preferences.d/apptainer",
            *another_suite(image, suite, "main", "[check-valid-until=no] "),
            "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apptainer",
            f"dpkg --compare-versions $(dpkg-query -W -f '${{Version}}' apptainer) ge {pin['least']}",
            "rm -rf /var/lib/apt/lists/*",
        ]
    )
    return [tool]
