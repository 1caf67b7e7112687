# Rendered from images/qemu/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS package

LABEL minsky=1 \
    minsky.image=qemu \
    minsky.target=x86_64-cpu

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        qemu-user && \
    rm -rf /var/lib/apt/lists/*

RUN dpkg-query -W -f '${Package} ${Version} package\n' qemu-user >/usr/share/built-with.txt

FROM ${BASE} AS qemu

LABEL minsky=1 \
    minsky.image=qemu \
    minsky.target=x86_64-cpu

COPY --from=package /usr/bin/qemu-ppc64le /usr/bin/qemu-ppc64le

COPY --from=package /usr/share/built-with.txt /usr/share/built-with.txt
