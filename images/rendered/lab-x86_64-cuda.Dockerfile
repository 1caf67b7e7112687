# Rendered from images/lab/recipe.py by `python -m minsky.images render`: edit that.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build

LABEL minsky=1 \
    minsky.image=lab \
    minsky.target=x86_64-cuda

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential \
        cmake \
        libopenmpi-dev \
        python3-dev \
        python3-pip \
        python3-venv && \
    rm -rf /var/lib/apt/lists/*

RUN apt-get update && \
    echo "deb $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Label: Debian' | head -n 1) trixie main non-free" >/etc/apt/sources.list.d/another.list && \
    apt-get update && \
    mkdir /root/cuda && \
    cd /root/cuda && \
    apt-get download nvidia-cuda-toolkit/trixie nvidia-cuda-dev/trixie libcudart12/trixie libnvvm4/trixie libcu++-dev/trixie libthrust-dev/trixie libcub-dev/trixie && \
    for deb in *.deb; do dpkg -x $deb / || exit 1; done && \
    for deb in *.deb; do dpkg-deb -W --showformat='${Package} ${Version} build\n' $deb; done >/root/unpacked.txt && \
    ldconfig && \
    cd / && \
    rm -r /root/cuda /etc/apt/sources.list.d/another.list /var/lib/apt/lists/*

COPY host-ca.crt /root/host-ca.crt

ARG PIP_INDEX_URL

ARG PIP_TRUSTED_HOST

ENV PIP_CERT=/root/host-ca.crt \
    PIP_NO_CACHE_DIR=1

COPY requirements-x86_64-cuda.txt /root/wheels.txt

RUN python3 -m venv --without-pip /opt/lab && \
    python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile --only-binary :all: -r /root/wheels.txt

COPY requirements-x86_64-cuda.source.txt /root/source.txt

RUN ln -s libnccl.so.2 /opt/lab/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl.so && \
    HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=/usr HOROVOD_NCCL_HOME=/opt/lab/lib/python3.11/site-packages/nvidia/nccl HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS=-j$(nproc) python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile --no-build-isolation --no-binary :all: -r /root/source.txt

COPY allreduce.py /opt/lab/lib/python3.11/site-packages/allreduce.py

RUN cd /opt/lab/lib/python3.11/site-packages && \
    rm -r tensorflow/include && \
    rm -r nvidia/*/include && \
    find numpy scipy sklearn matplotlib joblib h5py -type d -name tests -prune -exec rm -r {} + && \
    find . -name '*.a' -delete && \
    strip --strip-unneeded tensorflow/libtensorflow_*.so.2 horovod/tensorflow/*.so && \
    /opt/lab/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash . && \
    dpkg-query -W -f '${Package} ${Version} build\n' | cat - $(ls /root/unpacked.txt 2>/dev/null) >/opt/lab/built-with.txt

FROM ${BASE} AS lab

LABEL minsky=1 \
    minsky.image=lab \
    minsky.target=x86_64-cuda

RUN apt-get update -y && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libopenmpi3 \
        openmpi-bin \
        python3 && \
    rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/lab /opt/lab

RUN useradd --create-home --shell /bin/bash lab && \
    find / -xdev -path /tmp -prune -o -path /var/tmp -prune -o -type f -perm /6000 -exec chmod ug-s {} +

RUN ls -d /opt/lab/lib/python3.11/site-packages/nvidia/*/lib >/etc/ld.so.conf.d/nvidia.conf && \
    ldconfig

ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all

ENV LANG=C.UTF-8 \
    MPLBACKEND=Agg \
    PATH=/opt/lab/bin:/opt/lab/lib/python3.11/site-packages/nvidia/cuda_nvcc/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

USER lab
