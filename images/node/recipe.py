"""The virtual node: what an installer leaves on a bare machine, and nothing that a playbook installs."""

from hpccm import Stage

from minsky.images.recipes import Image
from minsky.images.strict import apt_get, copy, environment, raw, shell, stage

TARGETS = {"x86_64-cpu": {"base": "trixie", "needs_gb": 1}}
FORMATS = ("docker",)
UNTESTED = "only its systemd as PID 1 says whether it works, and every boot of the cluster waits for that"

PACKAGES = [
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "python3",
    "python3-apt",  # Ansible's own need, like Python: it would fetch it on every node
    "systemd",
    "systemd-sysv",
]

# They write what the host's kernel shares with every container, or wait for hardware that is not there.
MASKED = [
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-pstore.service",
    "systemd-remount-fs.service",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "getty.target",
    "console-getty.service",
    "apt-daily.timer",  # would hold apt's lock while a playbook installs
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
]


def stages(image: Image) -> list[Stage]:
    """The one stage of the image."""
    node = stage(image, "node")
    node += shell(
        commands=[
            # no fsync per unpacked file: a virtual node that loses power is made anew
            "echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io",
        ]
    )
    node += apt_get(ospackages=PACKAGES)
    node += copy(src="boot", dest="/usr/local/sbin/boot")
    node += copy(src="host-keys.conf", dest="/etc/systemd/system/ssh.service.d/host-keys.conf")
    node += copy(src="sshd.conf", dest="/etc/ssh/sshd_config.d/virtual.conf")
    node += shell(
        commands=[
            "chmod 755 /usr/local/sbin/boot",
            # an index of packages is kept, as on a real machine: it spares every task of a playbook a second
            "sed -i /pkgcache/d /etc/apt/apt.conf.d/*",
            "systemctl mask " + " ".join(MASKED),
            "systemctl set-default multi-user.target",
            # made at first boot: nodes that share an image share no identity
            "rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id",
            ": >/etc/machine-id",
            "install -d -m 700 /root/.ssh",
        ]
    )
    node += environment(
        variables={"container": "docker"}
    )  # how systemd learns that it is PID 1 of a container
    node += raw(docker="STOPSIGNAL SIGRTMIN+3")
    node += raw(docker='CMD ["/usr/local/sbin/boot"]')
    return [node]
