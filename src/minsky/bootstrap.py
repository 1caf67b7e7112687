"""Make `.venv` what the lock file says. Run by the system's Python, before anything is installed."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python is just what this line is for
    sys.exit(
        f"minsky: {sys.executable} is Python {sys.version.split()[0]}, and 3.11 or later is needed. "
        "Install one and name it: make PYTHON=python3.12"
    )

import hashlib
import importlib.util
import re
import subprocess
import time
from pathlib import Path

from minsky.errors import MinskyError, speak_plainly
from minsky.paths import ROOT
from minsky.system import apt_install

VENV = ROOT / ".venv"
STAMP = VENV / "installed"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def wanted() -> str:
    """Digest of what decides what `.venv` holds; the checkout's path too, as its scripts begin with it."""
    parts = [(ROOT / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")]
    return hashlib.sha256(b"\0".join([*parts, sys.version.encode(), str(ROOT).encode()])).hexdigest()


def create() -> None:
    """Create `.venv` anew, with Debian's python3-venv where its Python comes without ensurepip."""
    if importlib.util.find_spec("ensurepip") is None:
        if not Path(sys.executable).resolve().is_relative_to("/usr/bin"):
            raise MinskyError(
                f"{sys.executable} has no ensurepip, so it cannot make a virtual environment. "
                "Name another one: make PYTHON=/usr/bin/python3"
            )
        apt_install("python3-venv", why="this Python cannot make virtual environments")
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)


def pip(*arguments: str | Path) -> None:
    """Run the environment's pip; its own messages are shown only when it fails."""
    # pip brings its own list of authorities, which does not know the one of a TLS-inspecting proxy.
    cert = ["--cert", str(CA_BUNDLE)] if CA_BUNDLE.exists() else []
    done = subprocess.run(
        [VENV / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q", *cert, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise MinskyError(
            "pip could not install the locked packages. If its last lines name the network, mend that "
            "(PIP_INDEX_URL and https_proxy are honoured), then type the same command again:\n"
            + done.stdout[-2000:]
        )


def unused(root: Path = ROOT) -> str:
    """Pattern for the files of Ansible's collections that no playbook and no setting names."""
    files = [root / "ansible.cfg", *sorted((root / "playbooks").rglob("*.yml"))]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    named = sorted(set(re.findall(r"\b([a-z]+)\.([a-z_]+)\.[a-z_]+", text)))
    return rf"ansible_collections/(?!{'|'.join(f'{name}/{part}/' for name, part in named)})"


def main() -> None:
    """Install the lock file and this project into `.venv`, unless just that is there already."""
    if STAMP.exists() and STAMP.read_text() == wanted():
        return
    start = time.monotonic()
    print("minsky: installing the locked Python packages into .venv (a minute or two)", flush=True)
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin/python"
    try:
        subprocess.run([python, "-m", "pip", "-V"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):  # none yet, half made, or its Python has gone
        create()
    # The lock names every package, so there is nothing to resolve.
    pip("--no-deps", "--no-compile", "--require-hashes", "-r", ROOT / "requirements.lock")
    pip("--no-deps", "--no-build-isolation", "-e", ROOT)
    # Compiled here because PYTHONDONTWRITEBYTECODE would make every Ansible run compile anew; of the
    # collections, which are four files in five, only those in use. Some packages ship templates named *.py.
    packages = next(VENV.glob("lib/*/site-packages"))
    command: list[str | Path] = [python, "-m", "compileall", "-q", "-j0", "-x", unused(), packages]
    subprocess.run(command, check=False, capture_output=True)
    STAMP.write_text(wanted())
    print(f"minsky: .venv is ready after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
