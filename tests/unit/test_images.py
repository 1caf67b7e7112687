import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import hpccm
import pytest

from minsky.errors import MinskyError
from minsky.images import engine, recipes, sif, strict
from minsky.images.build import tar_of
from minsky.images.recipes import Target, image


def test_a_keyword_that_hpccm_would_ignore_is_refused_with_the_right_ones():
    with pytest.raises(MinskyError, match=r"apt_get\(package=.*ospackages"):
        strict.apt_get(package=["cmake"])


def test_what_hpccm_warns_of_is_an_error():
    with pytest.raises(MinskyError, match="Unable to determine the Linux distribution"):
        strict.baseimage(image="debian:trixie")


def test_a_block_that_hpccm_does_not_have_is_an_import_error():
    with pytest.raises(AttributeError, match="aptget"):
        strict.aptget  # noqa: B018


def test_a_stage_states_distribution_and_architecture_and_carries_our_label():
    text = str(strict.stage(image("lab"), "build"))
    assert text.startswith("FROM ${BASE} AS build")
    assert "minsky.image=lab" in text
    assert hpccm.config.get_cpu_architecture() == "x86_64"


def test_an_unknown_image_is_refused_with_the_list_of_images():
    with pytest.raises(MinskyError, match=r"no image 'labb'; the images are .*lab"):
        image("labb")


def test_an_unknown_target_is_refused_with_the_list_of_targets():
    with pytest.raises(MinskyError, match="no target 'vax-cpu'; its targets are x86_64-cpu"):
        image("lab", "vax-cpu")


def test_the_key_is_the_same_for_the_same_content():
    assert image("lab").key == image("lab").key
    assert len(image("lab").key) == 12


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An image in a directory of its own: one file, one line."""
    monkeypatch.setattr(recipes, "IMAGES", tmp_path)
    monkeypatch.setattr(recipes, "ROOT", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "file").write_text("one")

    def stages(of):
        made = strict.stage(of, "tiny")
        made += strict.copy(src="host-ca.crt", dest="/tmp/ca")
        made += strict.copy(src="file", dest="/file")
        return [made]

    return recipes.Image("tiny", Target("x86_64", "cpu"), SimpleNamespace(BASE="trixie", stages=stages))


def test_a_changed_context_file_changes_the_key(tiny):
    before = tiny.key
    (tiny.directory / "file").write_text("two")
    assert tiny.key != before


def test_another_architecture_changes_the_key(tiny):
    assert replace(tiny, target=Target("ppc64le", "cpu")).key != tiny.key


def test_a_newer_base_changes_the_key():
    base = image("node").base
    assert recipes.base_key({**base, "renewed": "later"}, "x86_64") != recipes.base_key(base, "x86_64")


def test_files_that_no_copy_names_and_the_hosts_certificates_are_not_part_of_the_content(tiny):
    before = tiny.key
    (tiny.directory / "README.md").write_text("words")
    assert tiny.key == before
    assert list(tiny.context) == ["file"]


def test_a_file_that_a_recipe_copies_and_nobody_wrote_is_named(tiny):
    (tiny.directory / "file").unlink()
    with pytest.raises(MinskyError, match=r"tiny/file is missing, which .*recipe.py copies"):
        _ = tiny.key


def test_a_full_disk_is_refused_with_what_is_needed_and_what_is_free(tmp_path):
    with pytest.raises(MinskyError, match=r"building needs 1e\+09 GB in .* and [\d.]+ GB are free"):
        engine.require_space(tmp_path / "not" / "made", 1e9, "building")


def test_without_a_docker_daemon_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    engine.daemon.cache_clear()
    with pytest.raises(MinskyError, match=r"no Docker daemon answers .* `make demo` installs"):
        engine.daemon()
    engine.daemon.cache_clear()


def test_two_commands_that_need_the_same_image_take_turns(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "CACHE", tmp_path)
    order = []

    def second():
        with engine.locked("image"):
            order.append("second")

    with engine.locked("image"):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)  # long enough for the second to pass, if nothing held it
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]


def test_a_sif_keeps_the_environment_that_docker_keeps_beside_an_image():
    text = sif.definition(image("lab"), "minsky/lab:1", ["PATH=/opt/lab/bin:/bin", "A=two words", "B=x=y"])
    assert "    export PATH=/opt/lab/bin:/bin\n" in text
    assert "    export A='two words'\n" in text
    assert "    export B=x=y\n" in text


def test_the_sif_of_a_cpu_image_is_named_by_image_architecture_and_key():
    assert sif.sif_path(image("lab")).name.startswith("lab-x86_64-")


def test_a_build_context_is_readable_by_whoever_unpacks_it():
    assert tar_of({"a": b"1"}).getvalue().startswith(b"a\0")
