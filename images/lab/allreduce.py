"""How fast ranks sum a tensor, by size: `srun -n 4 python -m allreduce`, or under mpirun.

Rank 0 prints a line per size: bytes per rank, microseconds, algorithm bandwidth (bytes over time) and bus
bandwidth, which is that times 2(n-1)/n for n ranks and compares with what a link can carry, whatever n is
(nccl-tests, doc/PERFORMANCE.md). Tensors lie on the rank's GPU where it has one; a wrong sum ends the run.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import horovod.tensorflow as hvd
import tensorflow as tf


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m allreduce", description=__doc__.split("\n")[0])
    parser.add_argument("--largest", type=int, default=64, metavar="MIB", help="default: %(default)s MiB")
    parser.add_argument(
        "--repeat", type=int, default=20, metavar="N", help="sums per size (default: %(default)s)"
    )
    chosen = parser.parse_args()
    hvd.init()
    if gpus := tf.config.list_physical_devices("GPU"):
        if 1 < len(gpus) < hvd.local_size():
            sys.exit(
                f"{hvd.local_size()} ranks on this node see {len(gpus)} GPUs, and NCCL refuses two ranks on "
                f"one GPU: start at most {len(gpus)} ranks a node."
            )
        mine = gpus[hvd.local_rank() % len(gpus)]  # a launcher that hands each rank one GPU shows it that one
        tf.config.set_visible_devices(mine, "GPU")
    size, device = hvd.size(), "GPU:0" if gpus else "CPU:0"
    if hvd.rank() == 0:
        nccl = "with" if hvd.nccl_built() else "without"
        print(f"# all-reduce of float32 over {size} ranks on {device}, Horovod {nccl} NCCL")
        print(f"# {'bytes':>10} {'us':>10} {'algbw GB/s':>11} {'busbw GB/s':>11}")
    count = 1 << 10
    while count * 4 <= chosen.largest << 20:
        with tf.device(device):
            tensor = tf.fill([count], float(hvd.rank() + 1))
        seconds = measure(tensor, chosen.repeat)
        if hvd.rank() == 0:
            rate = count * 4 / seconds / 1e9
            print(f"{count * 4:12} {seconds * 1e6:10.1f} {rate:11.3f} {rate * 2 * (size - 1) / size:11.3f}")
        count *= 4


def measure(tensor: tf.Tensor, repeat: int) -> float:
    """Seconds for one all-reduce of *tensor*, the mean of *repeat* after one that opens the connections."""
    total = hvd.allreduce(tensor, op=hvd.Sum, name=f"sum.{len(tensor)}")
    expected = hvd.size() * (hvd.size() + 1) / 2
    if float(tf.reduce_max(tf.abs(total - expected))) > 0:
        sys.exit(f"rank {hvd.rank()}: a sum of {len(tensor)} elements is {total[0]}, not {expected}")
    begin = time.perf_counter()
    for _ in range(repeat):
        total = hvd.allreduce(tensor, op=hvd.Sum, name=f"sum.{len(tensor)}")
    float(total[0])  # a GPU's work is done only when somebody looks
    return (time.perf_counter() - begin) / repeat


if __name__ == "__main__":
    main()
