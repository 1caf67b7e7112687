"""What of Dockerfile.ppc64le wants Open-CE's channel: where it begins, and what it says where there is none.

Its shell lines run here as they stand in the file, against a small HTTP server in the channels' place.
"""

import hashlib
import os
import re
import socket
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minsky.images import recipes
from minsky.images.recipes import image

LAB = image("lab", "ppc64le-cuda")
CHANNELS = {channel["argument"]: channel["url"] for channel in recipes.pins()["channel"].values()}


def stage(of, name):
    """The text of a stage in a Dockerfile."""
    return re.search(rf"^FROM \S+ AS {name}\n.*?(?=^FROM |\Z)", of, re.MULTILINE | re.DOTALL)[0]


def test_the_stage_mpi_is_that_of_the_cpu_image_and_comes_before_all_that_needs_a_channel():
    text = LAB.dockerfile()
    mpi = stage(text, "mpi")
    assert mpi.strip() == stage(image("lab", "ppc64le-cpu").dockerfile(), "mpi").strip()
    assert text.index(mpi) < text.index("ARG CHANNEL\n")
    assert not [name for name in CHANNELS if name in mpi]


def test_build_arguments_stand_at_the_top_with_what_versions_toml_says():
    head = LAB.rendered.read_text().partition("FROM ")[0]
    asked = dict(re.findall(r"^ARG (\w+)=(\S+)$", head, re.MULTILINE))
    assert asked == {
        "BASE": LAB.base["image"],
        **CHANNELS,
        "CUDA": next(iter(recipes.pins()["cuda"])),
        "ARCH": "linux-ppc64le",
    }


@pytest.mark.parametrize("url", CHANNELS.values(), ids=CHANNELS)
def test_a_channel_is_named_once_beside_what_is_rendered_from_it(url, root):
    names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(names, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    rendered = {str(path.relative_to(root)) for path in LAB.texts()}
    found = {
        name: count
        for name in set(listed) - rendered
        if (path := root / name).is_file() and (count := path.read_bytes().count(url.encode()))
    }
    assert found == {"images/versions.toml": 1}


def test_every_conda_pin_is_asked_for_of_each_cuda():
    text = stage(LAB.dockerfile(), "opence")
    for name, pin in LAB.conda.items():
        asked = "=".join([name, pin["version"], *([pin["build"]] if "build" in pin else [])])
        assert f'"{asked}"'.replace("{cuda}", "${CUDA}") in text


def test_the_self_test_is_told_of_a_horovod_with_nccl_and_without_gloo():
    assert LAB.expected["horovod"] == ["TensorFlow", "MPI", "NCCL"]
    assert {"tensorflow", "horovod", "keras", "numpy"} <= LAB.expected["pins"].keys()


@pytest.fixture
def refused():
    """A URL at which nothing listens."""
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def channel(tmp_path):
    """A URL at which a channel answers, with files out of tmp_path/served."""
    files = tmp_path / "served"
    (files / "linux-ppc64le").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (files / "linux-ppc64le" / "repodata.json").write_text("{}")
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=files)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def shell(has, cwd, **arguments):
    """What the RUN of stage opence that *has* a word does with these arguments, *cwd* its file system."""
    text = stage(LAB.dockerfile(), "opence").replace("\\\n", "")
    (line,) = [line for line in re.findall(r"^RUN (.*)", text, re.MULTILINE) if has in line]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        ["sh", "-c", re.sub(r"(?<![\w/])/(root|etc)\b", rf"{cwd}/\1", line)],
        check=False,
        env=environment | {"CUDA": "11.8", "ARCH": "linux-ppc64le"} | arguments,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_channels_that_answer_pass_without_a_word(channel, tmp_path):
    assert shell("repodata", tmp_path, CHANNEL=channel, CONDA_FORGE=channel) == (0, "")


def test_the_hosts_certificates_are_trusted_where_there_are_any(channel, tmp_path):
    trusted = tmp_path / "etc" / "ssl" / "certs" / "ca-certificates.crt"
    trusted.parent.mkdir(parents=True)
    trusted.write_text("Debian's\n")
    (tmp_path / "root" / "host-ca.crt").write_text("the host's\n")
    assert shell("repodata", tmp_path, CHANNEL=channel, CONDA_FORGE=channel) == (0, "")
    assert trusted.read_text() == "Debian's\nthe host's\n"


@pytest.mark.parametrize("argument", CHANNELS)
def test_a_channel_out_of_reach_costs_one_sentence_that_says_what_to_do(argument, refused, channel, tmp_path):
    there = dict.fromkeys(CHANNELS, channel)
    code, said = shell("repodata", tmp_path, **there | {argument: refused})
    assert code == 1
    assert re.fullmatch(
        rf"{refused}/linux-ppc64le/repodata\.json cannot be read \(curl: .*\): build where it can, with .*"
        rf"--build-arg {argument}=URL\.\n",
        said,
    )


def test_a_channel_without_the_directory_of_ppc64le_costs_the_same_sentence(channel, tmp_path):
    wrong = f"{channel}/elsewhere"
    code, said = shell("repodata", tmp_path, CHANNEL=wrong, CONDA_FORGE=channel)
    assert (code, said.count("\n")) == (1, 1)
    assert f"{wrong}/linux-ppc64le/repodata.json cannot be read" in said
    assert "404" in said


def test_a_cuda_that_open_ce_has_no_packages_for_costs_a_sentence_with_those_it_has(channel, tmp_path):
    code, said = shell("repodata", tmp_path, CHANNEL=channel, CONDA_FORGE=channel, CUDA="10.2")
    assert (code, said.count("\n")) == (1, 1)
    assert f"CUDA {' or '.join(recipes.pins()['cuda'])}, not for 10.2: give one of these" in said


def test_a_micromamba_that_is_another_file_is_not_run(channel, tmp_path):
    pin = LAB.pins["micromamba"]
    other = tmp_path / "served" / "linux-ppc64le" / f"micromamba-{pin['version']}.tar.bz2"
    other.write_bytes(b"other")
    code, said = shell("micromamba", tmp_path, CHANNEL=channel, CONDA_FORGE=channel)
    assert (code, said.count("\n")) == (1, 1)
    assert hashlib.sha256(b"other").hexdigest() in said
    assert pin["sha256"] in said
