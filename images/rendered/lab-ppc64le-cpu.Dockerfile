# Rendered from images/lab/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS mpi

LABEL minsky=1 \
    minsky.image=lab \
    minsky.target=ppc64le-cpu

ARG QEMU_CPU

RUN test $(uname -m) = ppc64le || { echo "This base is for $(uname -m), the image for ppc64le: build on such a machine, or emulated: docker build --platform linux/ppc64le --build-arg QEMU_CPU=power8nvl" >&2; exit 1; }

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        openmpi-bin \
        python-is-python3 \
        python3-mpi4py \
        python3-numpy && \
    rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --shell /bin/bash lab && \
    find / -xdev -path /tmp -prune -o -path /var/tmp -prune -o -type f -perm /6000 -exec chmod ug-s {} +

ENV LANG=C.UTF-8 \
    MPLBACKEND=Agg \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

USER lab
