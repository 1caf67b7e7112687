"""How long smoke tests take over 2, 4, 8 and 16 nodes: `python benchmarks/smoke.py [--inventory INVENTORY]`.

The figure in docs/performance.md. Without an inventory it takes the virtual cluster where one is up, as far
as its nodes go; else simulated ones: a stand-in for ssh starts nodecheck here, on a simulated, healthy
Minsky. Virtual and simulated nodes share this machine's cores, so their seconds grow with them where real
nodes' do not. Medians of RUNS fan-outs.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minsky.gpus.classes import CLASSES
from minsky.smoke import GROUP, everywhere
from minsky.virtual import INVENTORY

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
COUNTS = (2, 4, 8, 16)
RUNS = 3
LIMIT = 30.0  # seconds over 16 nodes


def simulated(directory: Path) -> Path:
    """Make an inventory of the most nodes, all of them one simulated Minsky; its file."""
    from simulated_node import Simulated  # noqa: PLC0415 - it is of the tests

    node, archive, ssh = Simulated(directory), directory / "nodecheck.pyz", directory / "ssh"
    shutil.copy(CLASSES / "minsky-p100.yml", directory)
    # munged's stand-in tells the time at which it was made
    (directory / "node.yml").write_text(
        "class: minsky-p100.yml\ninfiniband: {ports: 0}\nskip: {munge: simulated}\n"
    )
    subprocess.run([sys.executable, "-m", "minsky.nodecheck", "--zipapp", archive], check=True)
    set_to = " ".join(f"{name}={node.environment()[name]}" for name in ("PATH", "LD_LIBRARY_PATH"))
    ssh.write_text(
        f'#!/bin/sh\ncase "$*" in *nodecheck*) ;; *) exit 0;; esac\n'
        f"{set_to} exec {sys.executable} -I {archive} --node {directory}/node.yml --skip npu,xid --json\n"
    )
    ssh.chmod(0o755)
    hosts = "".join(f"        node{number}:\n" for number in range(1, max(COUNTS) + 1))
    file = directory / "hosts.yml"
    file.write_text(
        f"all:\n  vars: {{ansible_ssh_executable: {ssh}}}\n  children:\n    {GROUP}:\n      hosts:\n{hosts}"
    )
    return file


def main() -> int:
    """Print seconds for each number of nodes, and whether they grow less than that; status 1 where not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inventory", type=Path, default=INVENTORY if INVENTORY.exists() else None)
    chosen = parser.parse_args().inventory
    medians: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as made:
        inventory = chosen or simulated(Path(made))
        print(
            f"nodes of {chosen}" if chosen else "simulated nodes behind a stand-in for ssh, on this machine"
        )
        for count in COUNTS:
            seconds = []
            for _ in range(RUNS):
                began = time.monotonic()
                reports = everywhere(inventory, nodes=f"{GROUP}[0:{count - 1}]")
                seconds.append(time.monotonic() - began)
            if len(reports) < count:
                print(f"{count} nodes: the inventory has {len(reports)}")
                break
            failed = sum(bool(report.failed) for report in reports)
            medians[count] = statistics.median(seconds)
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            print(f"{count} nodes: {medians[count]:.1f} s ({spread}), {failed} failed")
    most, least = max(medians, default=0), min(medians, default=0)
    print(f"limit {LIMIT:g} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if most == least:
        return 0
    growth = medians[most] / medians[least]
    print(f"{most // least} times the nodes take {growth:.1f} times as long")
    return int(medians[most] > LIMIT or growth >= most / least)


if __name__ == "__main__":
    sys.exit(main())
