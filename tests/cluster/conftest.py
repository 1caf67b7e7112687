"""The cluster under test: any inventory; the virtual cluster is booted when none runs."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import testinfra

from minsky.cluster import running
from minsky.playbook import ansible_environment
from minsky.snapshot import Snapshot, snapshot_host

ROOT = Path(__file__).resolve().parents[2]
VIRTUAL = ROOT / "playbooks" / "inventory" / "virtual"
# The timer's one line after the report is there because Ansible takes no empty list of callbacks.
JSON_REPORT = {
    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer",
}
os.environ |= ansible_environment()  # testinfra calls Ansible by name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the cluster down comes last."""
    items.sort(key=lambda item: item.path.name.startswith("test_zz"))


@dataclass(frozen=True)
class Boot:
    """How the cluster came to run: by these tests or before them, and what the host was like before."""

    here: bool
    host_before: Snapshot | None


@pytest.fixture(scope="session")
def inventory(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--inventory").resolve()


@pytest.fixture(scope="session")
def boot(inventory: Path) -> Boot:
    if inventory != VIRTUAL or "control" in running():
        return Boot(here=False, host_before=None)
    before = snapshot_host()
    subprocess.run([sys.executable, "-m", "minsky.cluster", "up"], cwd=ROOT, check=True)
    return Boot(here=True, host_before=before)


@pytest.fixture(scope="session")
def virtual(inventory: Path) -> None:
    """Keep a test that breaks things, or reboots them, away from machines that people use."""
    if inventory != VIRTUAL:
        pytest.skip("this breaks things on purpose: leave --inventory away to run it on the virtual cluster")


@pytest.fixture(scope="session")
def cluster_booted_here(boot: Boot) -> bool:
    return boot.here


@pytest.fixture(scope="session")
def host_before(boot: Boot) -> Snapshot | None:
    return boot.host_before


def reach(inventory: Path, group: str) -> list[Any]:
    return testinfra.get_hosts([f"ansible://{group}"], ansible_inventory=str(inventory))


@pytest.fixture(scope="session")
def everyone(boot: Boot, inventory: Path) -> list[Any]:
    return reach(inventory, "all")


@pytest.fixture(scope="session")
def nodes(boot: Boot, inventory: Path) -> list[Any]:
    return reach(inventory, "slurm_node")


@pytest.fixture(scope="session")
def control(boot: Boot, inventory: Path) -> Any:
    return reach(inventory, "slurm_controller")[0]


@pytest.fixture(scope="session")
def variables(boot: Boot, inventory: Path) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Job:
    """An ended job: what Slurm says of it, and what it printed."""

    number: str
    state: str
    exit_code: str
    output: str

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

    def submit(self, arguments: str, directory: str = "work", environment: str = "") -> Job:
        """Run sbatch in ~/directory and wait for the job's end."""
        # not sbatch --wait, which looks every ten seconds
        sent = self.run(
            f"mkdir -p {directory} && cd {directory} && "
            f"job=$({environment} sbatch --parsable {arguments}) || exit 1; "
            "echo $job; for _ in $(seq 1200); do "
            "case $(scontrol show job -o $job) in "
            "*JobState=PENDING*|*JobState=CONFIGURING*|*JobState=RUNNING*|*JobState=COMPLETING*) sleep .5;; "
            "*) break;; esac; done"
        )
        number = sent.stdout.strip().splitlines()[0] if sent.stdout.strip() else ""
        assert number.isdigit(), f"sbatch refused: {sent.stdout}{sent.stderr}"
        shown = self.check(f"scontrol show job -o {number}")
        fields = dict(re.findall(r"(\w+)=(\S*)", shown))
        output = self.run(f"cat {fields['StdOut']}").stdout
        return Job(number, fields["JobState"], fields["ExitCode"], output)

    def script(self, text: str, arguments: str) -> Job:
        """Submit a few lines of bash."""
        return self.submit(f"{arguments} --wrap {quote(text)}")


@pytest.fixture(scope="session")
def users(control: Any, variables: dict[str, Any]) -> list[User]:
    return [User(account["name"], control) for account in variables["users_accounts"]]


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
def site(inventory: Path, boot: Boot) -> Callable[..., Run]:
    """Run site.yml and tell which task changed which host."""

    def play(*arguments: str) -> Run:
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory, "playbooks/site.yml", *arguments],
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
