"""Staging of data sets, from real directories and a real web server."""

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minsky import data
from minsky.errors import speak_plainly

CONTENT = {"images.gz": os.urandom(300_000), "labels.gz": b"labels"}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


class Server(SimpleHTTPRequestHandler):
    """A web server that honours `Range: bytes=N-` and keeps what was asked for."""

    asked: list[str | None]

    def do_GET(self):
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if not wanted:
            return super().do_GET()
        content, start = (
            open(self.translate_path(self.path), "rb").read(),  # noqa: SIM115, PTH123
            int(wanted[6:-1]),
        )
        self.send_response(206 if start < len(content) else 416)
        self.send_header("Content-Length", str(len(content[start:])))
        self.end_headers()
        self.wfile.write(content[start:])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path):
    """A directory as MINSKY_DATA names it: sets of files below it."""
    folder = tmp_path / "mirror" / "toy"
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder.parent


@pytest.fixture
def server(mirror):
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=mirror))
    running.asked = []
    running.url = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def toy(*mirrors):
    return data.DataSet("toy", "CC0", FILES, list(mirrors))


def staged(folder):
    return {file.name: file.read_bytes() for file in (folder / "toy").iterdir()}


def test_files_come_from_the_directory_that_the_user_names_and_are_not_fetched_twice(tmp_path, mirror):
    assert all(f"from {mirror}/toy/" in line for line in data.fetch(toy(), tmp_path, str(mirror)))
    assert staged(tmp_path) == CONTENT
    assert all("already there" in line for line in data.fetch(toy(), tmp_path))


def test_files_come_from_a_web_server(tmp_path, server):
    data.fetch(toy(), tmp_path, server.url)
    assert staged(tmp_path) == CONTENT


def test_mirrors_are_asked_when_the_users_has_nothing(tmp_path, server):
    lines = data.fetch(toy(f"{server.url}/toy/"), tmp_path, str(tmp_path / "nowhere"))
    assert all(server.url in line for line in lines)


def test_an_interrupted_download_continues_where_it_stopped(tmp_path, server):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".images.gz.part").write_bytes(CONTENT["images.gz"][:200_000])
    data.fetch(toy(), tmp_path, server.url)
    assert staged(tmp_path) == CONTENT
    assert server.asked == ["bytes=200000-", None]


@pytest.mark.parametrize("part", [b"something else", CONTENT["images.gz"], b"x" * 300_001])
def test_a_part_that_cannot_be_continued_does_no_harm(tmp_path, server, part):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".images.gz.part").write_bytes(part)
    data.fetch(toy(), tmp_path, server.url)
    assert staged(tmp_path) == CONTENT


def test_a_damaged_staged_file_is_named_and_fetched_again(tmp_path, mirror, capsys):
    data.fetch(toy(), tmp_path, str(mirror))
    (tmp_path / "toy" / "images.gz").write_bytes(b"damaged")
    data.fetch(toy(), tmp_path, str(mirror))
    assert staged(tmp_path) == CONTENT
    assert "toy/images.gz is damaged (SHA-256" in capsys.readouterr().err


def test_a_mirrors_damaged_file_is_refused_by_name_and_never_staged(tmp_path, mirror, server):
    (mirror / "toy" / "images.gz").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(data.NothingReachedError, match=r"toy/images.gz is damaged \(SHA-256"):
        data.fetch(toy(f"{server.url}/toy/"), tmp_path)
    assert staged(tmp_path) == {}


def test_a_good_mirror_stands_in_for_a_damaged_one(tmp_path, server):
    other = tmp_path / "other"
    (other / "toy").mkdir(parents=True)
    (other / "toy" / "images.gz").write_bytes(b"damaged")
    data.fetch(toy(f"{server.url}/toy/"), tmp_path / "to", str(other))
    assert staged(tmp_path / "to") == CONTENT


def test_where_nothing_is_reached_the_command_says_what_to_set_and_ends_with_3(tmp_path):
    environment = os.environ | {"MINSKY_DATA": str(tmp_path / "nowhere"), "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "minsky.data", "fetch", "mnist", "--to", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "train-images-idx3-ubyte.gz could not be had" in done.stderr
    assert "MINSKY_DATA" in done.stderr


def test_sets_that_cannot_be_reached_do_not_keep_the_others_from_being_fetched(
    tmp_path, mirror, monkeypatch, capsys
):
    absent = replace(toy(), name="absent")
    monkeypatch.setattr(data, "known", lambda: {"absent": absent, "toy": toy(), "gone": absent})
    monkeypatch.setattr(sys, "argv", ["data", "fetch", "absent", "toy", "gone", "--to", str(tmp_path)])
    monkeypatch.setenv("MINSKY_DATA", str(mirror))
    assert speak_plainly(data.main) == 3
    assert staged(tmp_path) == CONTENT
    said = capsys.readouterr()
    assert said.err.count("images.gz could not be had") == 2
    assert "toy/labels.gz: from" in said.out


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    command = [sys.executable, "-m", "minsky.data", "fetch", "mnits", "--to", "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'mnist'" in done.stderr


def test_a_set_that_no_server_has_comes_from_the_users_directory_alone(tmp_path, mirror):
    with pytest.raises(data.NothingReachedError, match=r"no server .*holds toy/images.gz by MINSKY_DATA"):
        data.fetch(toy(), tmp_path)
    data.fetch(toy(), tmp_path, str(mirror))
    assert staged(tmp_path) == CONTENT


def test_every_pinned_data_set_has_checksums_and_mirrors():
    for dataset in data.known().values():
        assert all(url.startswith("https://") and url.endswith("/") for url in dataset.mirrors)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in dataset.files.values())
