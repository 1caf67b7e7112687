"""The deep-learning image: TensorFlow, Horovod, mpi4py, and what the labs plot with.

On x86_64 `build` holds compilers and makes the virtual environment /opt/lab; `lab` takes that and the
libraries that it runs on. On ppc64le `mpi` is Debian's own MPI, mpi4py and NumPy, with which the CPU target
ends: neither PyPI nor Debian has TensorFlow for it. The GPU target goes on with `opence`, which makes a conda
environment of Open-CE's packages, and with a `lab` that takes that.
"""

from dataclasses import replace

from hpccm import Stage

from minsky.images.recipes import Image, Target, pins
from minsky.images.strict import another_suite, apt_get, comment, copy, environment, raw, shell, stage, user

TARGETS = {
    "x86_64-cpu": {"base": "bookworm", "needs_gb": 8, "horovod": ["TensorFlow", "MPI", "Gloo"]},
    "x86_64-cpu-keras2": {"base": "bookworm", "needs_gb": 8, "horovod": ["TensorFlow", "MPI", "Gloo"]},
    "x86_64-cuda": {"base": "bookworm", "needs_gb": 30, "horovod": ["TensorFlow", "MPI", "Gloo", "NCCL"]},
    "ppc64le-cpu": {"base": "trixie", "needs_gb": 3},
    "ppc64le-cuda": {"base": "trixie", "needs_gb": 20, "horovod": ["TensorFlow", "MPI", "NCCL"]},
}
# rendered there, where who has such a machine looks first
AT_THE_TOP = {"ppc64le-cuda": "Dockerfile.ppc64le"}

PIP = "python3 -m pip --python /opt/lab/bin/python install --no-deps --require-hashes --no-compile"
# what an image holds of the stage that made it: a list of its packages
BUILT_WITH, LISTED = "/opt/lab/built-with.txt", "${Package} ${Version} build\\n"
COMPILE = "/opt/lab/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash"
HOROVOD = (
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1"
    " HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS=-j$(nproc)"
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VARIABLES = {"LANG": "C.UTF-8", "MPLBACKEND": "Agg"}  # no display on a compute node
NVIDIA = {  # what NVIDIA's container runtime is to bring in from the host
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
# the host's, only where there are any: Docker wants one source that exists, and the Dockerfile does
CERTIFICATES = "COPY Dockerfile* host-ca.cr[t] /root/"
CUDA_IS_KNOWN = """\
case $CUDA in {pattern}) ;; *) \\
        echo "Open-CE has packages for CUDA {words}, not for $CUDA:" \\
            "give one of these by --build-arg CUDA." >&2; \\
        exit 1;; \\
    esac"""
CHANNELS_ANSWER = """\
for argument in CHANNEL CONDA_FORGE; do \\
        index=$(printenv $argument)/$ARCH/repodata.json; \\
        why=$(curl -fsSIL --connect-timeout 20 --max-time 60 $index 2>&1 >/dev/null) || { \\
            echo "$index cannot be read ($why): build where it can, with the host's certificates as" \\
                "host-ca.crt beside the Dockerfile where TLS is inspected, or name a mirror of the channel" \\
                "by --build-arg $argument=URL." >&2; \\
            exit 1; \\
        }; \\
    done"""
MICROMAMBA = """\
program=$CONDA_FORGE/$ARCH/micromamba-{version}.tar.bz2 && \\
    curl -fsSL -o micromamba.tar.bz2 $program && \\
    sum=$(sha256sum micromamba.tar.bz2 | cut -d' ' -f1) && \\
    if test $sum != {sha256}; then \\
        echo "$program has the SHA-256 $sum, not" \\
            "{sha256}: it is another program." >&2; \\
        exit 1; \\
    fi && \\
    tar -xjf micromamba.tar.bz2 bin/micromamba"""
# strict: what Open-CE has comes from Open-CE alone. The host's driver, seen or not, decides nothing
CREATE = """\
CONDA_OVERRIDE_CUDA=$CUDA bin/micromamba create --yes --no-rc --platform $ARCH \\
        --root-prefix /root/conda --prefix /opt/lab --cacert-path /etc/ssl/certs/ca-certificates.crt \\
        --override-channels --channel $CHANNEL --channel $CONDA_FORGE --strict-channel-priority \\
        {specs}"""


def stages(image: Image) -> list[Stage]:
    """The stages for the image's target."""
    if image.target.arch == "ppc64le":
        gpu = image.target.accelerator == "cuda"
        made = [mpi(image.plain), *([opence(image), power_lab(image)] if gpu else [])]
    else:
        made = [build(image.plain), lab(image.plain)]
    return [*made, *(layered(image, made[-1].name) if image.target.layers else [])]


def layered(image: Image, below: str) -> list[Stage]:
    """What the optional layers add to the image as it is without them: all that is below, both share."""
    made = stage(image, "layered", below=below)
    made += user(user="root")
    if image.target.arch == "ppc64le":
        made += apt_get(ospackages=[name for name, pin in image.debian.items() if "layer" in pin])
        made += shell(commands=[no_setuid()])
        made += user(user="lab")
        return [made]
    extra = stage(image, "extra", below="build")
    for layer in image.target.layers:
        extra += copy(src=f"requirements-{image.target.stack}+{layer}.txt", dest=f"/root/{layer}.txt")
        options = f"--upgrade --target /opt/extra --only-binary :all: -r /root/{layer}.txt"
        extra += shell(commands=[f"{PIP} {options}"])
    extra += shell(commands=[f"{COMPILE} /opt/extra"])
    made += copy(_from="extra", src="/opt/extra", dest="/opt/extra")
    made += shell(commands=[f"echo /opt/extra >{site_packages(image)}/extra.pth"])
    jupyter = {
        "JUPYTER_PATH": "/opt/extra/share/jupyter",
        "JUPYTER_CONFIG_PATH": "/opt/extra/etc/jupyter",
        "JUPYTERLAB_DIR": "/opt/extra/share/jupyter/lab",
    }
    path = {"PATH": f"/opt/lab/bin:/opt/extra/bin:{SYSTEM_PATH}"}
    made += environment(variables=path | (jupyter if "jupyter" in image.target.layers else {}))
    made += user(user="lab")
    return [extra, made]


def arguments(image: Image) -> dict[str, str]:
    """Build arguments at the top of the Dockerfile, beside BASE, and their defaults."""
    if str(image.target) != "ppc64le-cuda":
        return {}
    channels = {channel["argument"]: channel["url"] for channel in pins()["channel"].values()}
    return channels | {"CUDA": next(iter(pins()["cuda"])), "ARCH": "linux-ppc64le"}


def mpi(image: Image) -> Stage:
    """Debian's own MPI, mpi4py and NumPy: one stage to the label, whether or not others follow."""
    made = stage(replace(image, target=Target("ppc64le", "cpu")), "mpi")
    made += apt_get(ospackages=["openmpi-bin", "python-is-python3", "python3-mpi4py", "python3-numpy"])
    made += harden()
    made += environment(variables=VARIABLES | {"PATH": SYSTEM_PATH})
    made += user(user="lab")
    return made


def build(image: Image) -> Stage:
    """Compilers, and the virtual environment that they make."""
    site, cuda = site_packages(image), image.target.accelerator == "cuda"
    made = stage(image, "build")
    made += apt_get(
        ospackages=[
            "build-essential",
            "cmake",
            "libopenmpi-dev",
            "python3-dev",
            "python3-pip",
            "python3-venv",
        ]
    )
    if cuda:
        made += nvcc(image)
    made += copy(src="host-ca.crt", dest="/root/host-ca.crt")  # stays behind with this stage
    # a site's own index of packages, or a bundle's
    for variable in ("PIP_INDEX_URL", "PIP_TRUSTED_HOST"):
        made += raw(docker=f"ARG {variable}")
    made += environment(variables={"PIP_CERT": "/root/host-ca.crt", "PIP_NO_CACHE_DIR": "1"})
    made += copy(src=f"requirements-{image.target.stack}.txt", dest="/root/wheels.txt")
    made += shell(
        commands=[
            "python3 -m venv --without-pip /opt/lab",  # pip stays behind, too
            f"{PIP} --only-binary :all: -r /root/wheels.txt",
        ]
    )
    made += copy(src=f"requirements-{image.target.stack}.source.txt", dest="/root/source.txt")
    nccl = f"{site}/nvidia/nccl"  # the one that TensorFlow loads: a process can serve two, and they clash
    made += shell(
        commands=[
            *([f"ln -s libnccl.so.2 {nccl}/lib/libnccl.so"] if cuda else []),
            # without build isolation: Horovod is compiled against the TensorFlow that it will meet
            (f"HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=/usr HOROVOD_NCCL_HOME={nccl} " if cuda else "")
            + f"{HOROVOD} {PIP} --no-build-isolation --no-binary :all: -r /root/source.txt",
        ]
    )
    made += copy(src="allreduce.py", dest=f"{site}/allreduce.py")
    made += shell(
        commands=[
            f"cd {site}",
            "rm -r tensorflow/include",  # 180 MB that only a compiler reads
            *(["rm -r nvidia/*/include"] if cuda else []),
            "find numpy scipy sklearn matplotlib joblib h5py -type d -name tests -prune -exec rm -r {} +",
            "find . -name '*.a' -delete",
            # 170 MB of symbols for a debugger
            "strip --strip-unneeded tensorflow/libtensorflow_*.so.2 horovod/tensorflow/*.so",
            # a SIF is read-only: what is not compiled here is compiled anew at every start
            f"{COMPILE} .",
            f"dpkg-query -W -f '{LISTED}' | cat - $(ls /root/unpacked.txt 2>/dev/null) >{BUILT_WITH}",
        ]
    )
    return made


def nvcc(image: Image) -> shell:
    """CUDA's compiler, unpacked beside Debian's own packages: of a newer suite, in need of none of it."""
    packages = [name for name, pin in image.debian.items() if pin.get("stage") == "build"]
    suite = image.debian[packages[0]]["suite"]
    return shell(
        commands=[
            *another_suite(image, suite, "main non-free"),
            "mkdir /root/cuda",
            "cd /root/cuda",
            f"apt-get download {' '.join(f'{name}/{suite}' for name in packages)}",
            "for deb in *.deb; do dpkg -x $deb / || exit 1; done",
            f"for deb in *.deb; do dpkg-deb -W --showformat='{LISTED}' $deb; done >/root/unpacked.txt",
            "ldconfig",
            "cd /",
            "rm -r /root/cuda /etc/apt/sources.list.d/another.list /var/lib/apt/lists/*",
        ]
    )


def lab(image: Image) -> Stage:
    """The virtual environment, and the libraries that it runs on."""
    made = stage(image, "lab")
    made += apt_get(ospackages=["libopenmpi3", "openmpi-bin", "python3"])
    made += copy(_from="build", src="/opt/lab", dest="/opt/lab")
    made += harden()
    path = f"/opt/lab/bin:{SYSTEM_PATH}"
    if image.target.accelerator == "cuda":
        nvidia = f"{site_packages(image)}/nvidia"
        made += shell(commands=[f"ls -d {nvidia}/*/lib >/etc/ld.so.conf.d/nvidia.conf", "ldconfig"])
        path = f"/opt/lab/bin:{nvidia}/cuda_nvcc/bin:{SYSTEM_PATH}"  # ptxas, for XLA
        made += environment(variables=NVIDIA)
    made += environment(variables=VARIABLES | {"PATH": path})
    made += user(user="lab")
    return made


def opence(image: Image) -> Stage:
    """TensorFlow and Horovod of Open-CE in /opt/lab, for the CUDA of the build argument."""
    cudas, micromamba = pins()["cuda"], image.pins["micromamba"]
    made = stage(image, "opence")
    made += apt_get(ospackages=["bzip2", "ca-certificates", "curl"])
    made += raw(docker=CERTIFICATES, singularity="%files\n    host-ca.crt /root/")
    drivers = "; ".join(f"CUDA={cuda}: {pin['driver']} or newer" for cuda, pin in cudas.items())
    made += comment(f"the host's driver for {drivers}", reformat=False)
    for argument in arguments(image):
        made += raw(docker=f"ARG {argument}")
    made += shell(
        commands=[
            "test ! -e /root/host-ca.crt || cat /root/host-ca.crt >>/etc/ssl/certs/ca-certificates.crt",
            CUDA_IS_KNOWN.format(pattern="|".join(cudas), words=" or ".join(cudas)),
            CHANNELS_ANSWER,
        ]
    )
    made += shell(commands=["cd /root", MICROMAMBA.format(**micromamba), CREATE.format(specs=specs(image))])
    made += shell(
        commands=[
            "find /opt/lab -path '*/horovod/torch/*.so' -delete",  # it wants PyTorch's libraries
            "find /opt/lab -name '*.a' -delete",
            # where XLA looks for it
            "mkdir -p /opt/lab/lib/nvvm/libdevice",
            "ln -s ../../libdevice.10.bc /opt/lab/lib/nvvm/libdevice/",
        ]
    )
    return made


def specs(image: Image) -> str:
    """The packages as conda asks for them, `"NAME=VERSION=BUILD"`, a line each."""
    asked = [
        "=".join(filter(None, (name, pin["version"], pin.get("build")))) for name, pin in image.conda.items()
    ]
    return " \\\n        ".join(f'"{spec.format(cuda="${CUDA}")}"' for spec in asked)


def power_lab(image: Image) -> Stage:
    """The conda environment; without activation, so what that would set is set here."""
    made = stage(image, "lab")
    # without which NCCL takes sockets in InfiniBand's place
    made += apt_get(ospackages=["ibverbs-providers"])
    made += copy(_from="opence", src="/opt/lab", dest="/opt/lab")
    made += harden()
    made += environment(variables=NVIDIA)
    xla = "--xla_gpu_cuda_data_dir=/opt/lab/lib --xla_gpu_unsafe_fallback_to_driver_on_ptxas_not_found"
    made += environment(
        variables=VARIABLES
        | {
            "OPAL_PREFIX": "/opt/lab",
            "PATH": f"/opt/lab/bin:{SYSTEM_PATH}",
            "XLA_FLAGS": f'"{xla}"',  # Open-CE has libdevice and no ptxas: the driver compiles
        }
    )
    made += user(user="lab")
    return made


def harden() -> shell:
    """An ordinary user to be, and no program that would make another of it."""
    return shell(commands=["useradd --create-home --shell /bin/bash lab", no_setuid()])


def no_setuid() -> str:
    """Take those bits from every program; not in /tmp, where Apptainer shows the host's."""
    found = "-type f -perm /6000"
    return f"find / -xdev -path /tmp -prune -o -path /var/tmp -prune -o {found} -exec chmod ug-s {{}} +"


def site_packages(image: Image) -> str:
    """Where the virtual environment keeps packages."""
    return f"/opt/lab/lib/python{image.pins['python']['python']}/site-packages"
