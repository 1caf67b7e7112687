"""How the environment comes about, run by a system's Python without any package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minsky import bootstrap as minsky_bootstrap

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The files that the bootstrap reads, without any package to install."""
    (tmp_path / "src/minsky").mkdir(parents=True)
    for name in ("__init__", "bootstrap", "errors", "paths", "system"):
        shutil.copy(ROOT / f"src/minsky/{name}.py", tmp_path / "src/minsky")
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def bootstrap(checkout, python=sys.executable):
    return subprocess.run(
        [python, "-S", "-m", "minsky.bootstrap"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_environment_that_is_what_the_lock_says_is_left_alone(checkout):
    probe = "from minsky import bootstrap; print(bootstrap.wanted(), end='')"
    environment = os.environ | {"PYTHONPATH": "src"}
    command = [sys.executable, "-c", probe]
    wanted = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    (checkout / ".venv").mkdir()
    (checkout / ".venv/installed").write_text(wanted.stdout)
    done = bootstrap(checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["installed"]


def test_a_package_that_cannot_be_installed_costs_a_sentence_and_leaves_no_stamp(checkout):
    (checkout / "requirements.lock").write_text(
        f"absent @ file://{checkout}/absent.whl --hash=sha256:{'0' * 64}\n"
    )
    done = bootstrap(checkout)
    assert done.returncode == 2
    assert "minsky: pip could not install the locked packages" in done.stderr
    assert "then type the same command again" in done.stderr
    assert not (checkout / ".venv/installed").exists()


def test_an_older_python_is_named_with_the_version_that_is_needed(checkout):
    source = (checkout / "src/minsky/bootstrap.py").read_text()
    newest = source.replace("(3, 11)", "(99, 0)").replace("3.11 or later", "99.0 or later")
    (checkout / "src/minsky/bootstrap.py").write_text(newest)
    done = bootstrap(checkout)
    assert done.returncode == 1
    assert f"Python {sys.version.split()[0]}, and 99.0 or later is needed" in done.stderr


def test_just_those_collections_are_compiled_that_a_playbook_or_a_setting_names(tmp_path):
    (tmp_path / "playbooks/roles/x/tasks").mkdir(parents=True)
    (tmp_path / "ansible.cfg").write_text("callbacks_enabled = ansible.posix.profile_tasks\n")
    (tmp_path / "playbooks/roles/x/tasks/main.yml").write_text("- community.docker.docker_network:\n")
    for pattern in (minsky_bootstrap.unused(tmp_path), minsky_bootstrap.unused()):
        kept = [
            name
            for name in ("ansible/posix", "community/docker", "community/dns", "cisco/ios")
            if not re.search(pattern, f"/x/ansible_collections/{name}/plugins/x.py")
        ]
        assert kept == ["ansible/posix", "community/docker"]
