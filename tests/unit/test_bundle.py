import hashlib
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest

from minsky.errors import MinskyError
from minsky.images import bundle, recipes
from minsky.images.recipes import image


class Mirror(BaseHTTPRequestHandler):
    """A package mirror and index."""

    def do_GET(self):
        body, kind, length = self.server.offers[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.offers = {
        "/pool/a%2b1.deb": (b"package", "application/vnd.debian.binary-package", None),
        "/simple/a/": (b'<a href="https://files.example:8443/a.whl">', "text/html; charset=utf-8", None),
        "/half.deb": (b"half", "text/plain", 8),
    }
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(url, proxy, method="GET"):
    """What a program gets that is told of *proxy*."""
    handler = urllib.request.ProxyHandler({"http": proxy.url, "https": proxy.url})
    request = urllib.request.Request(url, method=method)  # noqa: S310 - of this file's own mirror
    with urllib.request.build_opener(handler).open(request, timeout=10) as answer:
        return answer.read(), answer.headers["Content-Type"]


def test_what_was_recorded_is_answered_without_the_mirror_and_nothing_else_is(tmp_path, mirror):
    files = {}
    with bundle.Server("127.0.0.1", tmp_path, files, recording=True) as proxy:
        recorded = get(f"{mirror.url}/pool/a%2b1.deb", proxy)
    assert recorded == (b"package", "application/vnd.debian.binary-package")
    (name,) = files
    assert name.endswith("/pool/a%2b1.deb")
    assert (tmp_path / name).read_bytes() == b"package"
    assert files[name]["sha256"] == hashlib.sha256(b"package").hexdigest()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    with bundle.Server("127.0.0.1", tmp_path, files, recording=False) as proxy:
        mirror.offers.clear()
        assert get(f"{mirror.url}/pool/a%2b1.deb", proxy) == recorded
        with pytest.raises(HTTPError, match="404: not in the bundle"):
            get(f"{mirror.url}/pool/b.deb", proxy)
        assert proxy.unanswered == [f"{mirror.url}/pool/b.deb: not in the bundle"]


def test_a_later_stage_gets_the_index_that_an_earlier_one_got(tmp_path, mirror):
    with bundle.Server("127.0.0.1", tmp_path, {}, recording=True) as proxy:
        first = get(f"{mirror.url}/pool/a%2b1.deb", proxy)
        mirror.offers["/pool/a%2b1.deb"] = (b"newer", "text/plain", None)
        assert get(f"{mirror.url}/pool/a%2b1.deb", proxy) == first


def test_who_first_asks_whether_something_is_there_finds_it_in_the_bundle_both_times(tmp_path, mirror):
    files, url = {}, f"{mirror.url}/pool/a%2b1.deb"
    for recording in (True, False):
        with bundle.Server("127.0.0.1", tmp_path, files, recording=recording) as proxy:
            assert [get(url, proxy, method)[0] for method in ("HEAD", "GET")] == [b"", b"package"]
        mirror.offers.clear()


def test_half_an_answer_is_an_error_and_not_kept(tmp_path, mirror):
    files = {}
    with bundle.Server("127.0.0.1", tmp_path, files, recording=True) as proxy:
        with pytest.raises(Exception, match="IncompleteRead"):
            get(f"{mirror.url}/half.deb", proxy)
        assert proxy.unanswered == [f"{mirror.url}/half.deb: 4 of 8 bytes came"]
    assert (files, list(tmp_path.iterdir())) == ({}, [])


def test_links_of_an_index_lead_through_the_proxy(tmp_path, mirror):
    with bundle.Server("127.0.0.1", tmp_path, {}, recording=True) as proxy:
        page, _ = get(f"{mirror.url}/simple/a/", proxy)
    assert page == b'<a href="http://files.example.https:8443/a.whl">'


def test_https_that_nobody_can_look_into_is_refused_with_a_sentence(tmp_path):
    with bundle.Server("127.0.0.1", tmp_path, {}, recording=True) as proxy:
        with pytest.raises(OSError, match="501 a proxy cannot look into https: fetch from"):
            get("https://channel.example/linux", proxy)
        (line,) = proxy.unanswered
        assert line.startswith("channel.example:443: a proxy cannot look into https")


@pytest.mark.parametrize(
    "url", ["https://index.example/simple", "https://index.example:8443/simple", "http://index.example"]
)
def test_a_url_survives_the_way_through_the_proxy(url):
    assert bundle.real(bundle.plain(url)) == url
    assert bundle.plain(url).startswith("http://")


def test_pip_takes_credentials_to_a_sites_own_index():
    assert bundle.redirected(image("node"), "https://me:secret@index.example:8443/simple") == {
        "PIP_INDEX_URL": "http://me:secret@index.example.https:8443/simple",
        "PIP_TRUSTED_HOST": "index.example.https",
    }


def test_a_sites_own_index_is_the_one_that_a_bundle_asks(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    assert bundle.python_index() == "https://index.example/simple"


def test_a_conda_channel_is_asked_for_through_the_proxy():
    power = image("lab", "ppc64le-cuda")
    given = bundle.redirected(power, "https://index.example")
    assert bundle.real(given["CHANNEL"]) == power.arguments["CHANNEL"] != given["CHANNEL"]
    assert "CUDA" not in given


@pytest.mark.parametrize(
    "url", ["http://host/../../etc/x", "http://../x", "file://localhost/etc/passwd", "/x"]
)
def test_nothing_is_written_or_read_outside_the_bundle(url):
    with pytest.raises(ValueError, match="http://HOST/PATH"):
        bundle.file_name(url)


@pytest.fixture
def sound(tmp_path):
    """A bundle for image node of one file."""
    manifest = {
        "made_for": bundle._made_for(image("node")),
        "index": "https://index.example",
        "files": {"http/host/a": {"sha256": hashlib.sha256(b"as it was").hexdigest(), "type": ""}},
    }
    (tmp_path / "http" / "host").mkdir(parents=True)
    (tmp_path / "http" / "host" / "a").write_bytes(b"as it was")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert bundle.verified(image("node"), tmp_path) == manifest
    return tmp_path


def test_an_altered_file_is_refused_with_both_checksums(sound):
    (sound / "http" / "host" / "a").write_bytes(b"altered")
    was, found = (hashlib.sha256(data).hexdigest() for data in (b"as it was", b"altered"))
    with pytest.raises(MinskyError, match=f"host/a is not what was .* is {found}, and .* says {was}.*again"):
        bundle.verified(image("node"), sound)


def test_a_missing_file_is_named(sound):
    (sound / "http" / "host" / "a").unlink()
    with pytest.raises(MinskyError, match=r"host/a is missing, which manifest\.json lists\. Copy the bundle"):
        bundle.verified(image("node"), sound)


def test_a_bundle_for_other_pins_is_refused_with_both_keys_and_what_to_type(sound):
    manifest = json.loads((sound / "manifest.json").read_text())
    manifest["made_for"] = "node for x86_64-cpu (key 0123456789ab)"
    (sound / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MinskyError) as caught:
        bundle.verified(image("node"), sound)
    assert (
        f"bundle of {manifest['made_for']}, and wanted is node for x86_64-cpu (key {image('node').key})"
        in str(caught.value)
    )
    assert f"`{image('node').command('bundle')} DIR`" in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "[]", '{"made_for": "x", "index": "", "files": {"a": 1}}'])
def test_a_directory_that_is_no_bundle_is_refused_with_what_makes_one(sound, content):
    (sound / "manifest.json").unlink()
    if content is not None:
        (sound / "manifest.json").write_text(content)
    with pytest.raises(MinskyError, match=r"is no bundle: .*manifest.json.*images bundle lab .*keras2 DIR`"):
        bundle.verified(image("lab", "x86_64-cpu-keras2"), sound)


def test_without_docker_it_is_said_that_a_bundle_is_for_nothing_else(sound, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{sound}/docker.sock")
    with pytest.raises(
        MinskyError, match="from a bundle only Docker builds an image: `apptainer build` cannot"
    ):
        bundle.ensure(image("node"), sound)


def test_a_directory_that_is_there_is_not_written_over(tmp_path):
    with pytest.raises(MinskyError, match="is there already, and a bundle is made as a whole: remove it"):
        bundle.record(image("node"), tmp_path)


def test_a_bundle_that_does_not_fit_is_refused_before_anything_is_built(tmp_path):
    recipe = SimpleNamespace(TARGETS={"x86_64-cpu": {"base": "trixie", "needs_gb": 1e9}})
    huge = recipes.Image("huge", recipes.Target("x86_64", "cpu"), recipe)
    with pytest.raises(MinskyError, match=r"GB are needed for the bundle of image huge in .* only"):
        bundle.record(huge, tmp_path / "new")
    assert not list(tmp_path.iterdir())
