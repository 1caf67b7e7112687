"""Follow a Slurm job from a machine of its cluster. Sent there over ssh, so standard library only.

    python3 - JOB SECONDS

Prints `> ` before each line of the job's output as it appears, and `= STATE REASON` whenever that changes.
Ends when the job has, 0 if it completed, 1 if not, 3 when SECONDS are over.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

WAITING = {"", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT"}


def main(job: str, seconds: float) -> int:
    """Print output and states of *job* until it ends, for *seconds* at most."""
    end, told, read = time.monotonic() + seconds, "", 0
    settle = 0.0
    while True:
        command = ["scontrol", "show", "job", "-o", job]
        shown = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True).stdout
        # Empty while slurmctld restarts; the names recur in other fields, so with the blank before them.
        fields = dict(re.findall(r"(?:^| )(JobState|Reason|StdOut)=(\S*)", shown))
        state = fields.get("JobState", "")
        if state and told != f"= {state} {fields['Reason']}":
            told = f"= {state} {fields['Reason']}"
            print(told, flush=True)
        lines: list[bytes] = []
        output = Path(fields.get("StdOut", ""))
        if output.is_file():
            with output.open("rb") as file:
                file.seek(read)
                lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n") and state in WAITING:
            lines.pop()  # still being written
        for line in lines:
            read += len(line)
            print("> " + line.decode(errors="replace").rstrip("\n"), flush=True)
        if state not in WAITING:
            # What another node wrote last may reach this one a moment later.
            settle = settle or time.monotonic() + 1.5
            if time.monotonic() > settle:
                return 0 if state == "COMPLETED" else 1
        if time.monotonic() > end:
            return 3
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
