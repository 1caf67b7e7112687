import io
import json
import re
import shutil
import subprocess
import tarfile
from types import SimpleNamespace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker.errors import ImageNotFound

from minsky.errors import MinskyError
from minsky.images import __main__ as command
from minsky.images import sbom, sif
from minsky.images.build import tar_of
from minsky.images.recipes import image

STATUS = """\
Package: libfoo1
Status: install ok installed
Architecture: amd64
Version: 1:2.0+ds-1
Description: a library
 Version: of a continuation line, which is no field

Package: foo
Status: install ok installed
Architecture: all
Version: 2.0

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
DEP5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 A
License: GPL-2+

Files: b/*
Copyright: 2020 B
License: Expat or Artistic

License: Artistic
 The text that the line above refers to.
"""
METADATA = """\
Metadata-Version: 2.1
Name: Foo_Bar
Version: 1.5
Summary: ä
"""
SITE = "opt/lab/lib/python3.11/site-packages"
CONDA = {
    "name": "nccl",
    "version": "2.19.3",
    "build": "cuda11.8_1",
    "channel": "https://me:secret@mirror.example/conda-forge/linux-ppc64le",
    "subdir": "linux-ppc64le",
    "license": "BSD-3-Clause",
}


def packed(metadata=METADATA, copyright_file=DEP5):
    """An image's files: libfoo1's directory of documents is a link to foo's."""
    files = {
        "var/lib/dpkg/status": STATUS,
        "usr/share/doc/foo/copyright": copyright_file,
        f"{SITE}/Foo_Bar-1.5.dist-info/METADATA": metadata,
        f"{SITE}/foo_bar/_vendor/six-1.0.dist-info/METADATA": METADATA.replace("Foo_Bar", "vendored"),
        "etc/hostname": "lab",
    }
    archive = tar_of({name: text.encode() for name, text in files.items()})
    with tarfile.open(fileobj=archive, mode="a") as tar:
        link = tarfile.TarInfo("usr/share/doc/libfoo1")
        link.type, link.linkname = tarfile.SYMTYPE, "foo"
        tar.addfile(link)
    archive.seek(0)
    return archive


def components(archive):
    made = json.loads(sbom.document(image("lab"), archive))
    return {part["name"]: part for part in made["components"]}


def licence_names(part):
    return [
        entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        for entry in part.get("licenses", [])
    ]


def test_installed_debian_packages_and_python_distributions_are_components_with_their_addresses():
    assert {name: part["purl"] for name, part in components(packed()).items()} == {
        "libfoo1": "pkg:deb/debian/libfoo1@1:2.0%2Bds-1?arch=amd64&distro=debian-12",
        "foo": "pkg:deb/debian/foo@2.0?arch=all&distro=debian-12",
        "Foo_Bar": "pkg:pypi/foo-bar@1.5",
    }


def test_licences_are_what_a_machine_readable_copyright_file_says_of_files_even_behind_a_link():
    found = components(packed())
    assert licence_names(found["foo"]) == ["GPL-2.0-or-later", "Expat or Artistic"]
    assert licence_names(found["libfoo1"]) == licence_names(found["foo"])


def test_packages_of_optional_layers_and_of_conda_are_components():
    files = {
        "opt/extra/Foo_Bar-1.5.dist-info/METADATA": METADATA,
        "opt/lab/conda-meta/nccl-2.19.3-cuda11.8_1.json": json.dumps(CONDA),
        "opt/lab/conda-meta/history": "not JSON",
    }
    found = components(tar_of({name: text.encode() for name, text in files.items()}))
    assert {name: part["purl"] for name, part in found.items()} == {
        "Foo_Bar": "pkg:pypi/foo-bar@1.5",
        "nccl": "pkg:conda/nccl@2.19.3?build=cuda11.8_1&channel=conda-forge&subdir=linux-ppc64le",
    }
    assert licence_names(found["nccl"]) == ["BSD-3-Clause"]


def test_a_free_text_is_not_guessed_at(tmp_path):
    path = tmp_path / "sbom"
    path.write_text(sbom.document(image("lab"), packed(copyright_file="Packaged by A.\n\nLicense: GPL-2\n")))
    assert sbom.licences(path) == {sbom.UNSTATED: 3}


def test_licences_are_counted_by_package_the_most_frequent_first(tmp_path):
    path = tmp_path / "sbom"
    path.write_text(sbom.document(image("lab"), packed(METADATA + "License-Expression: MIT AND ISC\n")))
    assert list(sbom.licences(path).items()) == [
        ("Expat or Artistic", 2), ("GPL-2.0-or-later", 2), ("MIT AND ISC", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("License-Expression: MIT OR ISC\nLicense: BSD\n", ["MIT OR ISC"]),
        ("License: bsd-3-clause\nClassifier: License :: OSI Approved :: BSD License\n", ["BSD-3-Clause"]),
        ("License: Apache 2\nClassifier: License :: OSI Approved :: Apache Software License\n",
         ["Apache Software License"]),
        ("Classifier: License :: A\nClassifier: License :: OSI Approved :: B\n", ["A", "B"]),
        ("License: Apache 2\nClassifier: License :: OSI Approved\n", ["Apache 2"]),
        (f"License: {'a licence in full ' * 9}\n", []),
        ("License: Redistribution\n        is permitted\n", []),
        ("", []),
    ],
)  # fmt: skip
def test_a_python_package_is_under_what_its_metadata_says_most_exactly(fields, said):
    assert licence_names(components(packed(METADATA + fields))["Foo_Bar"]) == said


@pytest.mark.parametrize("field", ["License-Expression: MIT OR ISC\n", "Classifier: License :: A\n", ""])
def test_the_document_is_valid_cyclonedx_and_the_same_for_the_same_content(field):
    text = sbom.document(image("lab"), packed(METADATA + field))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert sbom.document(image("lab"), packed(METADATA + field)) == text


def test_other_content_has_another_serial_number():
    serials = {
        json.loads(sbom.document(image("lab"), packed(text)))["serialNumber"]
        for text in (METADATA, METADATA + "License: MIT\n")
    }
    assert len(serials) == 2


def test_the_document_names_the_image_and_what_an_earlier_stage_took_from_debian():
    told = json.loads(sbom.document(image("qemu"), packed()))["metadata"]["component"]
    assert told["purl"] == f"pkg:docker/minsky/qemu@{image('qemu').key}"
    properties = {entry["name"]: entry["value"] for entry in told["properties"]}
    assert properties["minsky:target"] == "x86_64-cpu"
    assert re.match(r"qemu-user .* or later of trixie, in stage package$", properties["minsky:built-from"])


def test_what_an_earlier_stage_took_from_debian_is_named_with_optional_layers_too():
    plain = image("lab", "x86_64-cuda")
    with_layers = plain.with_layers("jupyter")
    told = [
        [entry for entry in json.loads(sbom.document(of, packed()))["metadata"]["component"]["properties"]
         if entry["name"] == "minsky:built-from"]
        for of in (plain, with_layers)
    ]  # fmt: skip
    assert told[0] == told[1] != []


def test_an_image_without_packages_has_no_licences(tmp_path):
    path = tmp_path / "sbom"
    path.write_text(sbom.document(image("lab"), tar_of({"etc/hostname": b"lab"})))
    assert sbom.licences(path) == {}


def test_pieces_of_any_size_read_as_one_file():
    pieces = [b"a" * 5, b"", b"b" * 300, b"c"]
    whole = io.BufferedReader(sbom._Stream(iter(filter(None, pieces))), 16)
    assert whole.read() == b"".join(pieces)


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit and a file under images/; skips without git."""
    if not shutil.which("git"):
        pytest.skip("git is missing: apt-get install git")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "recipe.py").write_text("1")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-qm", "one"],
    ):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    return tmp_path


def test_labels_name_the_image_and_the_pinned_versions_and_no_revision_without_git(checkout):
    inside = checkout / "images"  # of another repository: that one's commit is none of ours
    assert sbom.labels(image("node"), inside) == {
        "org.opencontainers.image.title": "node",
        "org.opencontainers.image.version": image("node").key,
        "minsky.base": "Debian 13",
    }
    assert re.match(
        r"horovod=[\d.]+ keras=[\d.]+ .*numpy=", sbom.labels(image("lab"), inside)["minsky.versions"]
    )


def test_versions_of_conda_packages_are_labels_with_the_cuda_that_they_are_for():
    versions = sbom.labels(image("lab", "ppc64le-cuda"))["minsky.versions"]
    assert re.search(r"cudatoolkit=11\.8\.0 .*horovod=0\.28\.1 .*tensorflow=2\.14\.1", versions)


def test_the_revision_is_dirty_when_and_only_when_what_makes_images_differs(checkout):
    def revision():
        return sbom.labels(image("node"), checkout)["org.opencontainers.image.revision"]

    (checkout / "README.md").write_text("words")
    clean = revision()
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (checkout / "images" / "new.py").touch()
    assert revision() == f"{clean}-dirty"


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("https://user:secret@example.org:8443/a/b.git?token=1", "https://example.org:8443/a/b.git"),
        ("git@example.org:a/b.git", None),
        ("/srv/b.git", None),
    ],
)
def test_the_source_is_a_public_address_without_credentials(checkout, origin, source):
    subprocess.run(["git", "-C", checkout, "remote", "add", "origin", origin], check=True)
    found = sbom.labels(image("node"), checkout)
    assert found.get("org.opencontainers.image.source") == source
    assert "secret" not in str(found)


def test_a_sif_has_the_labels_of_the_docker_image_that_say_where_it_comes_from(monkeypatch):
    kept = {"org.opencontainers.image.revision": "1f2e", "minsky.versions": "numpy=2 keras=3"}
    found = SimpleNamespace(labels={**kept, "minsky.image": "lab"})
    engine = SimpleNamespace(images=SimpleNamespace(get=lambda _: found))
    monkeypatch.setattr(sif, "docker", lambda: engine)
    before = sif.definition(image("lab"))
    added = set(sif._labelled(before, "tag").splitlines()) - set(before.splitlines())
    assert added == {f"    {name} {value}" for name, value in kept.items()}


def test_looking_into_an_image_that_is_not_built_says_what_to_type(monkeypatch):
    def absent(tag):
        raise ImageNotFound(tag)

    engine = SimpleNamespace(images=SimpleNamespace(get=absent))
    monkeypatch.setattr(command, "docker", lambda: engine)
    monkeypatch.setattr(command.sys, "argv", ["images", "inspect", "lab", "--accelerator", "cuda"])
    with pytest.raises(MinskyError, match=r"not built.* build lab --accelerator cuda$"):
        command.main()
