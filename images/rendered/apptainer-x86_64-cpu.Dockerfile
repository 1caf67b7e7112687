# Rendered from images/apptainer/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS apptainer

LABEL minsky=1 \
    minsky.image=apptainer \
    minsky.target=x86_64-cpu

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        fuse2fs \
        squashfs-tools \
        squashfuse && \
    rm -rf /var/lib/apt/lists/*

RUN printf 'Package: apptainer\nPin: release n=sid\nPin-Priority: 500\n\nPackage: *\nPin: release n=sid\nPin-Priority: 1\n\n' >/etc/apt/preferences.d/apptainer && \
    apt-get update && \
    echo "deb [check-valid-until=no] $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: trixie' 'Label: Debian' | head -n 1) sid main" >/etc/apt/sources.list.d/another.list && \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends apptainer && \
    dpkg --compare-versions $(dpkg-query -W -f '${Version}' apptainer) ge 1.4.5 && \
    rm -rf /var/lib/apt/lists/*
