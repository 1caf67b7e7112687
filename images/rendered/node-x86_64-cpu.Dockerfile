# Rendered from images/node/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS node

LABEL minsky=1 \
    minsky.image=node \
    minsky.target=x86_64-cpu

RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates \
        dbus \
        iproute2 \
        openssh-server \
        python3 \
        python3-apt \
        systemd \
        systemd-sysv && \
    rm -rf /var/lib/apt/lists/*

COPY boot /usr/local/sbin/boot

COPY host-keys.conf /etc/systemd/system/ssh.service.d/host-keys.conf

COPY sshd.conf /etc/ssh/sshd_config.d/virtual.conf

RUN chmod 755 /usr/local/sbin/boot && \
    sed -i /pkgcache/d /etc/apt/apt.conf.d/* && \
    systemctl mask systemd-sysctl.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-modules-load.service systemd-random-seed.service systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service systemd-udev-settle.service systemd-pstore.service systemd-remount-fs.service dev-hugepages.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer && \
    systemctl set-default multi-user.target && \
    rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id && \
    : >/etc/machine-id && \
    install -d -m 700 /root/.ssh

ENV container=docker

STOPSIGNAL SIGRTMIN+3

CMD ["/usr/local/sbin/boot"]
