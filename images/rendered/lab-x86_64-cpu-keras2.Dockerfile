# Rendered from images/lab/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build

LABEL minsky=1 \
    minsky.image=lab \
    minsky.target=x86_64-cpu-keras2

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential \
        cmake \
        libopenmpi-dev \
        python3-dev \
        python3-pip \
        python3-venv && \
    rm -rf /var/lib/apt/lists/*

COPY host-ca.crt /root/host-ca.crt

ARG PIP_INDEX_URL

ARG PIP_TRUSTED_HOST

ENV PIP_CERT=/root/host-ca.crt \
    PIP_NO_CACHE_DIR=1

COPY requirements-x86_64-cpu-keras2.txt /root/wheels.txt

RUN python3 -m venv --without-pip /opt/lab && \
    python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile --only-binary :all: -r /root/wheels.txt

COPY requirements-x86_64-cpu-keras2.source.txt /root/source.txt

RUN HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS=-j$(nproc) python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile --no-build-isolation --no-binary :all: -r /root/source.txt

COPY allreduce.py /opt/lab/lib/python3.11/site-packages/allreduce.py

RUN cd /opt/lab/lib/python3.11/site-packages && \
    rm -r tensorflow/include && \
    find numpy scipy sklearn matplotlib joblib h5py -type d -name tests -prune -exec rm -r {} + && \
    find . -name '*.a' -delete && \
    strip --strip-unneeded tensorflow/libtensorflow_*.so.2 horovod/tensorflow/*.so && \
    /opt/lab/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . && \
    dpkg-query -W -f '${Package} ${Version} build\n' | cat - $(ls /root/unpacked.txt 2>/dev/null) >/opt/lab/built-with.txt

FROM ${BASE} AS lab

LABEL minsky=1 \
    minsky.image=lab \
    minsky.target=x86_64-cpu-keras2

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libopenmpi3 \
        openmpi-bin \
        python3 && \
    rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/lab /opt/lab

RUN useradd --create-home --shell /bin/bash lab && \
    find / -xdev -path /tmp -prune -o -path /var/tmp -prune -o -type f -perm /6000 -exec chmod ug-s {} +

ENV LANG=C.UTF-8 \
    MPLBACKEND=Agg \
    PATH=/opt/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

USER lab
