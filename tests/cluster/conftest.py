"""The cluster under test: any inventory; the virtual cluster is booted when none runs."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import testinfra

from minsky.cluster import running
from minsky.playbook import ansible_environment
from minsky.virtual import INVENTORY

ROOT = Path(__file__).resolve().parents[2]
# The timer's one line after the report is there because Ansible takes no empty list of callbacks.
JSON_REPORT = {
    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer",
}
os.environ |= ansible_environment()  # testinfra calls Ansible by name


@pytest.fixture(scope="session")
def inventory(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--inventory").resolve()


@pytest.fixture(scope="session")
def boot(inventory: Path) -> bool:
    """See that the cluster is up; whether it was booted here."""
    if inventory != INVENTORY.parent or "control" in running():
        return False
    subprocess.run([sys.executable, "-m", "minsky.cluster", "up"], cwd=ROOT, check=True)
    return True


@pytest.fixture(scope="session")
def virtual(inventory: Path) -> None:
    """Keep a test that breaks things, or reboots them, away from machines that people use."""
    if inventory != INVENTORY.parent:
        pytest.skip("this breaks things on purpose: leave --inventory away to run it on the virtual cluster")


@pytest.fixture(scope="session")
def reach(boot: bool, inventory: Path) -> Callable[[str], list[Any]]:
    """The hosts of a group."""
    return lambda group: testinfra.get_hosts([f"ansible://{group}"], ansible_inventory=str(inventory))


@pytest.fixture(scope="session")
def everyone(reach: Callable[[str], list[Any]]) -> list[Any]:
    return reach("all")


@pytest.fixture(scope="session")
def nodes(reach: Callable[[str], list[Any]]) -> list[Any]:
    return reach("slurm_node")


@pytest.fixture(scope="session")
def control(reach: Callable[[str], list[Any]]) -> Any:
    return reach("slurm_controller")[0]


@pytest.fixture(scope="session")
def variables(boot: bool, inventory: Path) -> dict[str, Any]:
    """The controller's variables, with templates resolved by Ansible itself."""
    listed = subprocess.run(
        ["ansible-inventory", "-i", inventory, "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    groups = json.loads(listed)
    return groups["_meta"]["hostvars"][groups["slurm_controller"]["hosts"][0]]


@pytest.fixture(scope="session")
def shared(variables: dict[str, Any]) -> str:
    return variables["cluster_filesystems"][0]["mount"]


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Poll until a condition gives something true; past the deadline fail with the last thing it gave."""

    def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (last := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"after {seconds} s still not: {what}; last seen: {last!r}")
            time.sleep(0.5)
        return last

    return wait


@pytest.fixture(scope="session")
def print_cores() -> str:
    """A command that prints the cores on which it may run, each as the list of its threads."""
    return (
        'python3 -c "import os; print(*{'
        "open(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list').read().strip()"
        ' for cpu in os.sched_getaffinity(0)})"'
    )


@dataclass(frozen=True)
class Job:
    """An ended job: what Slurm says of it, by field of `scontrol show job`, and what it printed."""

    shown: dict[str, str]
    output: str

    @property
    def number(self) -> str:
        return self.shown["JobId"]

    @property
    def state(self) -> str:
        return self.shown["JobState"]

    @property
    def result(self) -> dict[str, Any]:
        lines = re.findall(r"(?m)^RESULT (\{.*\})$", self.output)
        assert lines, f"job {self.number} ({self.state}) printed no RESULT line:\n{self.output}"
        return json.loads(lines[-1])


@dataclass(frozen=True)
class User:
    """An ordinary user at a login shell on the controller."""

    name: str
    control: Any

    def run(self, command: str) -> Any:
        return self.control.run(f"runuser -l {self.name} -c {quote(command)} </dev/null")

    def check(self, command: str) -> str:
        done = self.run(command)
        assert done.rc == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def send(self, arguments: str, directory: str = "work", environment: str = "") -> str:
        """Run sbatch in ~/directory, after what *environment* has the shell do; the job's number."""
        sbatch = f"{environment} sbatch --parsable {arguments}"
        return self.check(f"mkdir -p {directory} && cd {directory} && {sbatch}")

    def show(self, number: str) -> dict[str, str]:
        return dict(re.findall(r"(?:^| )(\w+)=(\S*)", self.check(f"scontrol show job -o {number}")))

    def end(self, number: str, seconds: int = 600) -> Job:
        """Wait for a job's end."""
        # in one command: each goes through a connection and a login of its own
        self.run(
            f"for _ in $(seq {2 * seconds}); do case $(scontrol show job -o {number}) in "
            "*JobState=PENDING*|*JobState=CONFIGURING*|*JobState=RUNNING*|*JobState=COMPLETING*) sleep .5;; "
            "*) break;; esac; done"
        )
        shown = self.show(number)
        output = self.run(f"cat {shown['StdOut']}").stdout
        state = shown["JobState"]
        if state in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}:
            pytest.fail(f"after {seconds} s job {number} is {state} ({shown['Reason']}):\n{output}")
        return Job(shown, output)

    def submit(self, arguments: str, directory: str = "work", environment: str = "") -> Job:
        """Run sbatch and wait for the job's end."""
        # not sbatch --wait, which looks every ten seconds
        return self.end(self.send(arguments, directory, environment))

    def script(self, text: str, arguments: str) -> Job:
        """Submit a few lines of bash."""
        return self.submit(f"{arguments} --wrap {quote(text)}")


@pytest.fixture(scope="session")
def users(control: Any, variables: dict[str, Any]) -> list[User]:
    accounts = variables.get("users_accounts") or []
    present = [User(entry["name"], control) for entry in accounts if entry.get("state") != "absent"]
    if not present:
        pytest.skip("the inventory has no accounts to submit jobs with: add one to users_accounts")
    return present


@pytest.fixture(scope="session")
def user(users: list[User]) -> User:
    return users[0]


@dataclass(frozen=True)
class Run:
    """What a playbook did."""

    status: int
    changed: set[tuple[str, str]]
    text: str
    seconds: float


@pytest.fixture(scope="session")
def playbook(inventory: Path, boot: bool) -> Callable[..., Run]:
    """Run one of playbooks/ and tell which task changed which host."""

    def play(name: str, *arguments: str) -> Run:
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory, f"playbooks/{name}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | JSON_REPORT,
        )
        seconds = time.monotonic() - began
        try:
            report, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
        except ValueError:
            return Run(done.returncode, set(), done.stdout + done.stderr, seconds)
        changed = {
            (task["task"]["name"], name)
            for part in report["plays"]
            for task in part["tasks"]
            for name, result in task["hosts"].items()
            if result.get("changed")
        }
        return Run(done.returncode, changed, done.stdout + done.stderr, seconds)

    return play


@pytest.fixture(scope="session")
def site(playbook: Callable[..., Run]) -> Callable[..., Run]:
    return partial(playbook, "site.yml")
