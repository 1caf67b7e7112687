"""The deep-learning image: TensorFlow, Horovod over MPI and Gloo, mpi4py, and what the labs plot with.

Two stages: `build` holds compilers and makes the virtual environment /opt/lab, `lab` takes that and the
libraries that it runs on.
"""

from hpccm import Stage

from minsky.images.recipes import Image
from minsky.images.strict import apt_get, copy, environment, shell, stage

BASE = "bookworm"
TARGETS = ("x86_64-cpu",)
NEEDS_GB = 8

PIP = "python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile"
HOROVOD = (
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1"
    " HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS=-j$(nproc)"
)


def stages(image: Image) -> list[Stage]:
    """`build` and `lab`."""
    site = f"/opt/lab/lib/python{image.pins['python']['python']}/site-packages"

    build = stage(image, "build")
    build += apt_get(
        ospackages=[
            "build-essential",
            "cmake",
            "libopenmpi-dev",
            "python3-dev",
            "python3-pip",
            "python3-venv",
        ]
    )
    build += copy(src="host-ca.crt", dest="/root/host-ca.crt")  # stays behind with this stage
    build += environment(variables={"PIP_CERT": "/root/host-ca.crt", "PIP_NO_CACHE_DIR": "1"})
    build += copy(src=f"requirements-{image.target}.txt", dest="/root/wheels.txt")
    build += shell(
        commands=[
            "python3 -m venv --without-pip /opt/lab",  # pip stays behind, too
            f"{PIP} --only-binary :all: -r /root/wheels.txt",
        ]
    )
    build += copy(src=f"requirements-{image.target}.source.txt", dest="/root/source.txt")
    build += shell(
        commands=[
            # without build isolation: Horovod is compiled against the TensorFlow that it will meet
            f"{HOROVOD} {PIP} --no-build-isolation --no-binary :all: -r /root/source.txt",
        ]
    )
    build += shell(
        commands=[
            f"cd {site}",
            "rm -r tensorflow/include",  # 180 MB that only a compiler reads
            "find numpy scipy sklearn matplotlib joblib h5py -type d -name tests -prune -exec rm -r {} +",
            "find . -name '*.a' -delete",
            # 170 MB of symbols for a debugger
            "strip --strip-unneeded tensorflow/libtensorflow_*.so.2 horovod/tensorflow/*.so",
            # a SIF is read-only: what is not compiled here is compiled anew at every start
            "/opt/lab/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .",
        ]
    )

    lab = stage(image, "lab")
    lab += apt_get(ospackages=["libopenmpi3", "openmpi-bin", "python3"])
    lab += copy(_from="build", src="/opt/lab", dest="/opt/lab")
    lab += environment(
        variables={
            "PATH": "/opt/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "MPLBACKEND": "Agg",  # no display on a compute node
        }
    )
    return [build, lab]
