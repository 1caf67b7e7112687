import tomllib

import pytest

from minsky.errors import MinskyError
from minsky.images import pins, recipes

TEXT = (recipes.IMAGES / "versions.toml").read_text()
TARGETS = {name: several[0].recipe.TARGETS for name, several in recipes.catalogue().items()}
NUMPY = (
    '{ version = "2.0.2", targets = ["x86_64-cpu", "x86_64-cuda"], form = "wheel", why = "the newest that T'
)


def refused(text, targets=TARGETS):
    with pytest.raises(MinskyError) as caught:
        pins.check(tomllib.loads(text), targets)
    return str(caught.value)


def test_a_pattern_of_targets_stands_for_those_that_the_recipe_has():
    horovod = recipes.pins()["image"]["lab"]["packages"]["horovod"]
    assert 'horovod = [\n  { version = "0.28.1", targets = ["x86_64-*"]' in TEXT
    assert horovod[0]["targets"] == ["x86_64-cpu", "x86_64-cpu-keras2", "x86_64-cuda"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '{ version = "2.0.2", ',
            "{ ",
            '[image.lab.packages] numpy lacks version: write one, such as version = "',
        ),
        (
            "{ version = ",
            "{ verison = ",
            "[image.lab.packages] numpy has 'verison', which nothing reads: its",
        ),
        (
            'version = "2.0.2"',
            "version = 2.0",
            "] numpy has version = 2.0, which is of another kind: write such as",
        ),
        (
            'targets = ["x86_64-cpu", "x86_64-cuda"], ',
            "",
            '] numpy lacks targets: write one, such as targets = ["',
        ),
        (
            '"x86_64-cuda"]',
            '"x86_64-rocm"]',
            "] numpy is for the target 'x86_64-rocm', which the recipe does not",
        ),
        (
            '"x86_64-cuda"]',
            '"x86_64-*"]',
            "] numpy is pinned twice for x86_64-cpu-keras2: take that out of one",
        ),
        ('form = "wheel", ', "", '[image.lab.packages] numpy lacks form: write one, such as form = "wheel"'),
        ('form = "wheel"', 'form = "whl"', '] numpy has form = "whl", which must be wheel or source.'),
        ('why = "the newest that T', 'why = "", w = "', "] numpy has 'w', which nothing reads"),
    ],
)
def test_a_bad_pin_of_a_python_package_is_refused_by_table_package_and_field(old, new, said):
    bad = NUMPY.replace(old, new)
    assert bad != NUMPY
    assert TEXT.count(NUMPY) == 1
    assert said in refused(TEXT.replace(NUMPY, bad))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('suite = "sid", ', "", "[image.apptainer.debian] apptainer lacks suite: write one, such as suite ="),
        (
            'least = "1.4.5", ',
            "",
            "[image.apptainer.debian] apptainer lacks least: write one, such as least =",
        ),
        ('\nwhy = "one static program', '\n# "', "[image.lab.micromamba] lacks why: write one"),
        ('\nsha256 = "c8e9', '\n# "', "[image.lab.micromamba] lacks sha256: write one"),
        ('\nsha256 = "c8e9', '\nsha256 = "', "[image.lab.micromamba] has sha256 = "),
        ('renewed = "2026-11-22"', "renewed = 2026-11-22", "[base.bookworm] has renewed = "),
        ('renewed = "2026-11-22"', 'renewed = "today"', '] has renewed = "today", which must be a date.'),
        ("[base.trixie]", "[base.trixy]", "[base.trixie] is missing, which the target "),
        (
            '"x86_64", "ppc64le"]',
            '"x86_64"]',
            "[base.trixie] does not list ppc64le in architectures, and the",
        ),
        ("[architecture.ppc64le]", "[architecture.power]", "[architecture.ppc64le] is missing, which the"),
        ("[image.lab.python]", "[image.lab.pyton]", "[image.lab.python] is missing, and Python packages are"),
        ("[image.lab.conda]", "[image.lab.konda]", "[image.lab.konda] has 'python', which nothing reads"),
        ("[image.qemu.debian]", "[image.quemu.debian]", "[image.quemu] is of no image: write images/quemu/"),
        ("[channel.open-ce]", "[chanel.open-ce]", "[chanel] is no table that anything reads"),
        (
            'why = "static;',
            'layer = ["x"], why = "static;',
            "] qemu-user has layer = ['x'], which is of another",
        ),
        ("libnvvm4 = [{", "libnvvm4 = {", "cannot be read: "),
    ],
)
def test_what_no_recipe_could_mean_is_refused_by_name(old, new, said, tmp_path):
    assert old in TEXT
    path = tmp_path / "versions.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(MinskyError) as caught:
        pins.load(path, TARGETS)
    assert said in str(caught.value)
    assert str(caught.value).startswith("images/versions.toml")


@pytest.mark.parametrize(("field", "example"), [("base", '"base": "trixie"'), ("needs_gb", '"needs_gb": 8')])
def test_a_target_whose_entry_in_the_recipe_lacks_something_is_refused(field, example):
    means = {name: value for name, value in TARGETS["qemu"]["x86_64-cpu"].items() if name != field}
    said = refused(TEXT, TARGETS | {"qemu": {"x86_64-cpu": means}})
    assert said.endswith(f"x86_64-cpu of images/qemu/recipe.py lacks {field}: write one, such as {example}.")


def test_a_package_that_is_no_list_of_pins_is_refused():
    added = '[image.node.conda]\nsix = { version = "1" }\n'
    assert "[image.node.conda] six is no list of pins: write [{ ... }]" in refused(f"{TEXT}\n{added}")


def test_a_file_that_is_no_toml_is_refused_with_the_line(tmp_path):
    path = tmp_path / "versions.toml"
    path.write_text("[base\n")
    with pytest.raises(MinskyError, match=r"versions.toml cannot be read: .*\(at line 1, column 6\)"):
        pins.load(path, TARGETS)
