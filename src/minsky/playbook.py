"""Run Ansible playbooks: the output to a log, what matters to the user."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ansible_mitogen
import yaml

from minsky.errors import MinskyError, speak_plainly
from minsky.paths import ROOT
from minsky.stages import LOGS, Stages, console, live

# One host's result as ansible.cfg has it printed: a heading, fields as indented YAML, and whether it counted.
RESULT = re.compile(
    r"^(ok|changed|fatal|failed): \[([^]\n]+)\].*=> ?\n((?: {4}.*\n|\n(?= {4}))*)(\.\.\.ignoring)?",
    re.MULTILINE,
)
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\]", re.MULTILINE)


def ansible_environment() -> dict[str, str]:
    """Environment in which this project's Ansible is found, with its settings and plain output.

    Mitogen carries tasks out through one Python per node that stays: on a cluster that needs no change
    site.yml takes less than half the time (docs/performance.md). The playbooks run without it too.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        # Ansible refuses to start in a locale that was sent here and is not installed
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_STRATEGY_PLUGINS": str(Path(ansible_mitogen.__file__).parent / "plugins" / "strategy"),
        "ANSIBLE_STRATEGY": "mitogen_linear",
    }


def play(stage: str, playbook: str, *arguments: str) -> None:
    """Run a playbook; its output goes to `.minsky/log/STAGE.log`, and what it says to the user is shown.

    A task speaks to the user by a debug message that begins with `minsky: `.

    Raises:
        MinskyError: it failed: host, task and message of the first failure, and the log's path.
    """
    log = LOGS / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["ansible-playbook", str(ROOT / "playbooks" / playbook), *arguments]
    count, start = 0, time.monotonic()
    with (
        log.open("w") as file,
        live() as say,
        subprocess.Popen(
            command, cwd=ROOT, env=ansible_environment(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process,
    ):  # fmt: skip
        for line in process.stdout or ():
            file.write(line)
            if task := TASK.match(line):
                count += 1
                say(f"{time.monotonic() - start:4.0f} s  task {count}: {task[1]}")
    output = log.read_text()
    if process.returncode:
        raise MinskyError(f"{playbook} stopped on {failure(output)}\nAll that Ansible said is in {log}.")
    for message in spoken(output):
        console.print(f"  {message}")


def results(output: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Read what Ansible printed of each result: (task, status, host, fields), without ignored failures."""
    found = []
    for match in RESULT.finditer(output):
        status, name, body, ignored = match.groups()
        fields = yaml.safe_load(body)
        if not ignored and isinstance(fields, dict):
            tasks = TASK.findall(output, 0, match.start())
            found.append((tasks[-1] if tasks else "", status, name, fields))
    return found


def failure(output: str) -> str:
    """The sentence in which a run of Ansible failed: where, at which task, and what the task said."""
    failed = [result for result in results(output) if result[1] in {"fatal", "failed"}]
    for task, _, name, fields in failed:
        if task == failed[-1][0]:  # an earlier one was rescued: the run went on
            said = [f"{name}, at the task '{task}': {str(fields.get('msg', 'no message')).strip()}"]
            said += [str(fields[key]).strip()[-800:] for key in ("stderr", "stdout") if fields.get(key)]
            return "\n".join(said)
    errors = re.findall(r"^\[?ERROR\]?:? *(.*)$", output, re.MULTILINE) or output.splitlines()[-3:]
    return "; ".join(dict.fromkeys(errors)) or "nothing that it told"


def spoken(output: str) -> list[str]:
    """What a playbook's tasks said to the user, each sentence once, in order."""
    said: list[str] = []
    for *_, fields in results(output):
        messages = fields.get("msg")
        said += map(str, messages) if isinstance(messages, list) else [str(messages)]
    return list(dict.fromkeys(m.removeprefix("minsky: ") for m in said if m.startswith("minsky: ")))


def main() -> None:
    """`python -m minsky.playbook NAME ...`: run playbooks/NAME.yml; the rest goes to ansible-playbook."""
    name, *arguments = sys.argv[1:]
    with Stages().stage(name, f"running playbooks/{name}.yml"):
        play(name, f"{name}.yml", *arguments)


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
