"""What the lab image must do, run inside it as an ordinary user, who tells it in JSON what to expect.

Versions against the pins; Horovod's own account of its build, and a sum over two ranks by each controller
that the target has, on GPUs where there is one for each; processes that do not know of each other are named;
threads as asked for; libraries that the linker finds; no program that gives its caller another user's rights.
Without Horovod: MPI and NumPy. Under emulation: that the programs and libraries of the image start on the
emulated processor.

    python3 selftest.py '{"pins": {"numpy": "2.0.2"}, "debian": {"openmpi-bin": "4.1"}, "gpu": false,
                          "horovod": ["TensorFlow", "MPI", "Gloo"], "layers": []}'

`gpu` says whether the host has one: then it must be seen in here, too.
"""

import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

RANKS, LIMIT = 2, 120  # seconds for a command
SUM = sum(range(RANKS + 1))
SIZES = 5  # of allreduce up to 1 MiB
# Open MPI copies between processes with ptrace rights that a container may not have
os.environ |= {"OMPI_MCA_btl_vader_single_copy_mechanism": "none", "TF_CPP_MIN_LOG_LEVEL": "3"}
MPIRUN = ["mpirun", "-n", str(RANKS), "--oversubscribe"]
NOT_MPI = ["sh", "-c", f'for rank in $(seq {RANKS}); do "$@"; done', "sh"]
CONTROLLERS = {"MPI": MPIRUN, "Gloo": ["horovodrun", "--gloo", "-np", str(RANKS)]}
DRIVER = {"libcuda.so.1"}  # from the host
# the labs' format of networks, with one that needs no weights
OPENCV = """
import cv2, numpy
layers = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }'
shape = "input_shape { dim: 1 dim: 1 dim: 1 dim: 3 }"
net = cv2.dnn.readNetFromCaffe(f'name: "tiny" input: "data" {shape} {layers}'.encode())
net.setInput(numpy.array([[[[-1, 0, 2]]]], numpy.float32))
said = net.forward().ravel().tolist()
assert said == [0, 0, 2], said
print(cv2.__version__, "runs a network of Caffe's format")
"""
# what shows that an optional layer works, as arguments of Python
LAYERS = {
    "jupyter": ["-m", "jupyterlab", "--version"],
    "opencv": ["-c", OPENCV],
    "pytorch": ["-c", "import torch; print(torch.__version__, (torch.ones(2, 2) @ torch.ones(2, 2)).sum())"],
}
SELF = [sys.executable, str(Path(__file__).resolve())]


def main() -> None:
    """All checks; the first that fails ends with what was found."""
    expected = json.loads(sys.argv[1])
    for package, wanted in expected["pins"].items():
        found = version(package)
        require(found == wanted, f"{package} is {found}, versions.toml pins {wanted}")
    for package, least in expected["debian"].items():
        found = run(["dpkg-query", "-W", "-f", "${Version}", package])
        newer = subprocess.run(["dpkg", "--compare-versions", found, "ge", least], check=False)
        require(newer.returncode == 0, f"{package} is {found}, versions.toml wants {least} or newer")
    surprises = [str(path) for path in files(Path("/")) if lifts(path)]
    require(
        not surprises,
        f"setuid, setgid or with capabilities, and a container needs none: {', '.join(surprises)}",
    )
    disagree()
    if horovod := expected["horovod"]:
        stack(horovod, expected["gpu"])
    else:
        print("no TensorFlow and no Horovod for this target: MPI and NumPy")
        agree(MPIRUN, "numpy")
        said = run([*MPIRUN, *SELF, "regression"])
        require(
            said.count("closed form") == RANKS, f"the regression of two ranks is not that of one:\n{said}"
        )
        print(f"mpirun: {RANKS} ranks fit a line to halves of the data, as one fits it to all")
    for layer in expected["layers"]:
        print(f"layer {layer}: {run([sys.executable, *LAYERS[layer]]).splitlines()[-1]}")
    if cpu := os.environ.get("QEMU_CPU"):
        start_everything(cpu)
    elif horovod:  # elsewhere all comes from Debian, which sees to that
        find_libraries()


def stack(features: list[str], gpu: bool) -> None:
    """What the labs import, how Horovod was built, and that its ranks agree."""
    begin = time.monotonic()
    run([sys.executable, "-c", "pass"])
    python = time.monotonic() - begin
    begin = time.monotonic()
    import horovod.tensorflow  # noqa: PLC0415 - that these import, and how fast, is the test
    import matplotlib.pyplot as plt  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415
    from sklearn.datasets import load_digits  # noqa: PLC0415

    seconds = time.monotonic() - begin
    require(len(load_digits().images) > 0, "scikit-learn's digits are missing, the labs' embedded data")
    plt.figure().savefig("/dev/null", format="png")
    print(
        f"start: Python {python:.1f} s, TensorFlow {tf.__version__} with Horovod {horovod.__version__} "
        f"{seconds:.1f} s"
    )
    built = run(["horovodrun", "--check-build"])
    for feature in features:
        require(f"[X] {feature}" in built, f"Horovod was built without {feature}:\n{built}")
    print(f"horovodrun --check-build: {', '.join(features)}")
    gpus = tf.config.list_physical_devices("GPU")
    if "NCCL" in features:
        require(bool(gpus) or not gpu, "the host has a GPU, and TensorFlow sees none")
        print(f"GPUs: {len(gpus)}, so {RANKS} ranks run on {'one each' if len(gpus) >= RANKS else 'the CPU'}")
    # NCCL refuses two ranks on one GPU
    visible = {} if len(gpus) >= RANKS else {"CUDA_VISIBLE_DEVICES": "-1"}
    for feature in features:
        if feature in CONTROLLERS:
            agree(CONTROLLERS[feature], "horovod", **visible)
    if platform.machine() == "x86_64":
        said = run([*MPIRUN, sys.executable, "-m", "allreduce", "--largest=1", "--repeat=3"], **visible)
        table = re.findall(r"^ +\d+(?: +\d+\.\d+){3}$", said, re.MULTILINE)
        require(f"over {RANKS} ranks" in said and len(table) == SIZES, f"not the table of allreduce:\n{said}")
        print(f"allreduce: {SIZES} sizes, 1 MiB in {table[-1].split()[1]} us")
    count_threads()
    require(float(tf.reduce_sum(tf.ones([8, 8]) @ tf.ones([8, 8]))) == 8**3, "a product of matrices is wrong")


def count_threads() -> None:
    """Pools of threads must be as large as their variables say."""
    started = []
    for count in ("1", "2"):
        variables = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), count)
        said = run([*SELF, "threads"], OMP_NUM_THREADS=count, CUDA_VISIBLE_DEVICES="-1", **variables)
        found = re.search(
            r"^pools ([\d ]+)\nstarted (\d+)$", said, re.MULTILINE
        )  # TensorFlow may speak before
        require(found is not None, f"no count of threads in:\n{said}")
        pools, threads = found[1].split(), found[2]
        require(set(pools) == {count}, f"OMP_NUM_THREADS={count}, and pools of: {' '.join(pools)}")
        started.append(int(threads))
    one, two = started
    counted = (
        f"TensorFlow starts {one} threads with TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS at 1, "
        f"and {two} with both at 2"
    )
    require(two - one == 2, f"{counted}, where two pools with one more each are 2 more")  # noqa: PLR2004
    print(f"threads: {len(pools)} pools of NumPy and scikit-learn are as OMP_NUM_THREADS says; {counted}")


def disagree() -> None:
    """Processes that no mpirun started must be told from ranks."""
    try:
        agree(NOT_MPI, "numpy")
    except SystemExit as error:
        require("each is rank 0 of 1" in str(error), f"the wrong reason for what is no MPI run: {error}")
        print(f"{RANKS} processes that know nothing of each other are told from ranks")
    else:
        sys.exit(f"{RANKS} processes that know nothing of each other pass for ranks")


def agree(launcher: list[str], what: str, **environment: str) -> None:
    """Under *launcher*, RANKS ranks must know of each other and have the same sum through *what*."""
    said = run([*launcher, *SELF, "rank", what], **environment)
    require(
        said.count("rank 0 of 1") != RANKS,
        f"{launcher[0]} starts {RANKS} processes, and each is rank 0 of 1: the MPI that they load is not "
        f"{launcher[0]}'s own.\n{said}",
    )
    heard = said.count(f"of {RANKS} sums to {SUM}")
    require(heard == RANKS, f"{' '.join(launcher)}: not {RANKS} ranks that agree:\n{said}")
    devices = "".join(sorted({f" on {device}" for device in re.findall(r"sums to \d+ on (\S+)", said)}))
    print(f"{launcher[0]}: {RANKS} ranks agree, through {what}{devices}")


def rank(what: str) -> None:
    """One rank: the sum of 1 to RANKS; under mpirun, MPI and Horovod must count alike."""
    counts, total, device = [], 0, ""
    if what == "numpy" or "OMPI_COMM_WORLD_SIZE" in os.environ:
        import numpy as np  # noqa: PLC0415
        from mpi4py import MPI  # noqa: PLC0415 - starts MPI, which the process that calls mpirun must not

        world = MPI.COMM_WORLD
        counts.append((world.rank, world.size))
        buffer = np.full(1000, world.rank + 1.0)
        world.Allreduce(MPI.IN_PLACE, buffer)
        total = int(buffer.mean())
    if what == "horovod":
        import horovod.tensorflow as hvd  # noqa: PLC0415
        import tensorflow as tf  # noqa: PLC0415

        hvd.init()
        counts.append((hvd.rank(), hvd.size()))
        if gpus := tf.config.list_physical_devices("GPU"):
            mine = gpus[hvd.local_rank()]
            tf.config.set_visible_devices(mine, "GPU")
            tf.config.experimental.set_memory_growth(mine, True)
        summed = hvd.allreduce(tf.fill([8], float(hvd.rank() + 1)), op=hvd.Sum, name="total")
        total, device = int(summed[0]), f" on {summed.device.rpartition('device:')[2]}"
    require(len(set(counts)) == 1, f"MPI says {counts[0]} for rank and size, Horovod {counts[-1]}")
    print(f"rank {counts[0][0]} of {counts[0][1]} sums to {total}{device}")


def regression() -> None:
    """One rank: gradient descent on its share of the data, gradients summed, against the closed form."""
    import numpy as np  # noqa: PLC0415
    from mpi4py import MPI  # noqa: PLC0415

    world, x = MPI.COMM_WORLD, np.linspace(-1, 1, 100)
    features, y = np.stack([np.ones_like(x), x], axis=1), 3 * x + 1 + np.sin(9 * x)
    mine = slice(world.rank, None, world.size)
    weights, gradient = np.zeros(2), np.empty(2)
    for _ in range(500):
        world.Allreduce(features[mine].T @ (features[mine] @ weights - y[mine]), gradient)
        weights -= 0.5 * gradient / len(x)
    closed = np.linalg.lstsq(features, y, rcond=None)[0]
    require(np.allclose(weights, closed, atol=1e-6), f"{weights} instead of {closed}")
    print(f"rank {world.rank}: the closed form")


def threads() -> None:
    """How many threads each pool of NumPy and scikit-learn would use, and how many TensorFlow starts."""
    import tensorflow as tf  # noqa: PLC0415
    import threadpoolctl  # noqa: PLC0415
    from sklearn.cluster import KMeans  # noqa: F401, PLC0415 - loads OpenMP

    print("pools", *(pool["num_threads"] for pool in threadpoolctl.threadpool_info()))
    before = len(list(Path("/proc/self/task").iterdir()))
    tf.function(tf.matmul)(tf.ones([8, 8]), tf.ones([8, 8]))
    print("started", len(list(Path("/proc/self/task").iterdir())) - before)


def find_libraries() -> None:
    """What every library and program of /opt names must be there, for the linker or loaded before."""
    everything = [path for top in ("/opt/lab", "/opt/extra") for path in elves(Path(top))]
    names, missing = {path.name for path in everything}, {}
    for path in everything:
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        if lost := set(re.findall(r"(\S+) => not found", said)) - loaded_before(path, names):
            missing[path] = lost
    lines = [f"{path}: {', '.join(sorted(lost))}" for path, lost in missing.items()]
    require(not missing, "the linker does not find\n  " + "\n  ".join(lines))
    require(bool(everything), "/opt/lab holds no program and no library")
    print(f"{len(everything)} programs and libraries find all that they name")


def loaded_before(path: Path, names: set[str]) -> set[str]:
    """Which libraries *path* need not find: a wheel's module loads those among *names*, the wheels' own."""
    if "horovod" in path.parts:
        return {"libtensorflow_cc.so.2", "libtensorflow_framework.so.2"}
    if path.name.startswith("libtensorflow"):
        return DRIVER
    if path.name.startswith("MPI.mpich."):  # mpi4py's wheel has a module for either MPI
        return {"libmpi.so.12"}
    return names | DRIVER


def start_everything(cpu: str) -> None:
    """Start every program, load every library, and name what uses instructions that *cpu* does not have."""
    begin = time.monotonic()
    everything = list(elves(Path("/")))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        became = dict(zip(everything, pool.map(start, everything), strict=True))
    illegal = [str(path) for path in everything if became[path] == "dies"]
    require(
        bool(everything) and not illegal, f"these use instructions that {cpu} lacks: {', '.join(illegal)}"
    )
    count = Counter(became.values())
    print(
        f"{count['starts']} programs start and {count['loads']} libraries load on an emulated {cpu}: "
        f"{time.monotonic() - begin:.0f} s"
    )
    for why in sorted(count.keys() - {"starts", "loads"}):
        some = [str(path) for path in everything if became[path] == why]
        print(f"{len(some)} not tried, {why}: {', '.join(some[:3])}{', ...' if len(some) > 3 else ''}")  # noqa: PLR2004


def start(path: Path) -> str:
    """What becomes of *path*, a library loaded, a program asked for its version.

    `starts` or `loads`; `dies` by SIGILL; else why that is not known.
    """
    library = ".so" in path.name  # its initialisation, in a program that does nothing
    command, preload = (["true"], {"LD_PRELOAD": str(path)}) if library else ([path, "--version"], {})
    try:
        done = subprocess.run(
            command,
            env=os.environ | preload,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "running for a minute"
    except OSError as error:
        return str(error.strerror)
    if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
        return "dies"
    if library and (done.returncode or b"cannot be preloaded" in done.stderr):
        return "cannot be preloaded"
    if b"error while loading shared libraries" in done.stderr:
        return "without its libraries"
    return "loads" if library else "starts"


def elves(top: Path) -> Iterator[Path]:
    """Programs and libraries below *top* that are for us."""
    for path in files(top):
        if os.access(path, os.R_OK) and (".so" in path.name or os.access(path, os.X_OK)):
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def lifts(path: Path) -> bool:
    """Whether the file gives who starts it another user's rights, or a part of root's."""
    if path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID):
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:  # it has none
        return False


def files(top: Path) -> Iterator[Path]:
    """Files of the image below *top*, readable or not; links, and what the kernel shows, left out."""
    for folder, inner, names in os.walk(top):
        if top == Path("/") and folder == "/":
            inner[:] = set(inner) - {"proc", "sys", "dev", "tmp"}
        for path in (Path(folder) / name for name in names):
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def run(command: list[str], **environment: str) -> str:
    """What *command* printed; it must succeed within LIMIT seconds."""
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            process.terminate()  # mpirun takes its ranks along, which a kill would leave
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            last = "\n".join((error.output or b"").decode(errors="replace").splitlines()[-10:])
            sys.exit(f"`{' '.join(command)}` has not ended after {LIMIT} seconds. Its last lines:\n{last}")
    require(process.returncode == 0, f"`{' '.join(command)}` ended with {process.returncode}:\n{said}")
    return said


def require(holds: bool, otherwise: str) -> None:
    """End with the sentence *otherwise* unless the condition holds."""
    if not holds:
        sys.exit(otherwise)


PARTS = {"rank": rank, "regression": regression, "threads": threads}

if __name__ == "__main__":
    PARTS.get(sys.argv[1], main)(*sys.argv[2:])
