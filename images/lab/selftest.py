"""What the lab image must do, run inside it as an ordinary user: `python3 selftest.py '{"numpy": "2.0.2"}'`.

Versions against the pins, Horovod's own account of its build, a sum over two ranks by each controller.
"""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

begin = time.monotonic()
import horovod.tensorflow as hvd  # noqa: E402 - that these import, and how fast, is part of the test
import matplotlib.pyplot as plt  # noqa: E402
import tensorflow as tf  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

IMPORT_SECONDS = time.monotonic() - begin
RANKS = 2
# Open MPI copies between processes with ptrace rights that a container may not have
ENVIRONMENT = {**os.environ, "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "TF_CPP_MIN_LOG_LEVEL": "2"}


def main() -> None:
    """All checks; the first that fails ends with what was found."""
    for package, pinned in json.loads(sys.argv[1]).items():
        found = version(package)
        require(found == pinned, f"{package} is {found}, versions.toml pins {pinned}")
    require(len(load_digits().images) > 0, "scikit-learn's digits are missing, the labs' embedded data")
    plt.figure().savefig("/dev/null", format="png")
    print(f"imports: {IMPORT_SECONDS:.1f} s")

    built = run(["horovodrun", "--check-build"])
    for feature in ("TensorFlow", "MPI", "Gloo"):
        require(f"[X] {feature}" in built, f"Horovod was built without {feature}:\n{built}")
    for launcher in (
        ["mpirun", "-n", str(RANKS), "--oversubscribe"],
        ["horovodrun", "--gloo", "-np", str(RANKS)],
    ):
        said = run([*launcher, sys.executable, str(Path(__file__).resolve()), "rank"])
        agree = said.count(f"of {RANKS} sums to {sum(range(RANKS + 1))}") == RANKS
        require(agree, f"{' '.join(launcher)}: not {RANKS} ranks that agree:\n{said}")
        print(f"{launcher[0]}: {RANKS} ranks agree")


def rank() -> None:
    """One rank: the sum of 1 to RANKS through Horovod; under mpirun, MPI and Horovod must count alike."""
    hvd.init()
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        from mpi4py import MPI  # noqa: PLC0415 - starts MPI, which the process that calls mpirun must not

        counted = (MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size)
        require(
            counted == (hvd.rank(), hvd.size()), f"MPI says {counted}, Horovod {(hvd.rank(), hvd.size())}"
        )
    total = hvd.allreduce(tf.constant(float(hvd.rank() + 1)), op=hvd.Sum, name="total")
    print(f"rank {hvd.rank()} of {hvd.size()} sums to {int(total)}")


def run(command: list[str]) -> str:
    """What *command* printed; it must succeed within two minutes."""
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    require(done.returncode == 0, f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def require(holds: bool, otherwise: str) -> None:
    """End with the sentence *otherwise* unless the condition holds."""
    if not holds:
        sys.exit(otherwise)


if __name__ == "__main__":
    rank() if sys.argv[1] == "rank" else main()
