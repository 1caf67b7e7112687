"""Contracts over the whole tree."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in out.splitlines() if (ROOT / name).is_file()]


def test_every_dependency_is_locked_by_hash():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = (ROOT / "requirements.lock").read_text()
    asked = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for requirement in asked:
        name = re.split(r"[<>=\[ ]", requirement)[0]
        pinned = re.search(rf"(?m)^{re.escape(name)}==\S+.*\\\n    --hash=sha256:", lock)
        assert pinned, f"{name} is not in requirements.lock; run the command in its first lines"


def test_every_package_that_the_source_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in project["dependencies"]}
    imported = set()
    for path in (ROOT / "src" / "minsky").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    brought_by = packages_distributions()
    undeclared = [
        name
        for name in sorted(imported - sys.stdlib_module_names - {"minsky"})
        if not declared & {distribution.lower() for distribution in brought_by[name]}
    ]
    assert undeclared == []


def test_no_package_registry_is_named():
    # put together here so that this file does not name them either
    hosts = "|".join(
        [r"py" + r"pi\.org", r"python" + r"hosted\.org", r"deb\." + r"debian", r"registry\." + r"npmjs"]
    )
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if re.search(hosts, line)
    ]
    assert named == [], "clients find their registries by configuration; use package names"


def test_every_place_in_the_readmes_map_exists():
    block = re.search(r"(?s)## The tree.*?```\n(.*?)```", (ROOT / "README.md").read_text())
    assert block, "README.md has no map of the tree"
    names = re.findall(r"(?m)^([\w./-]+)", block[1])
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_make_verb_in_the_documents_exists():
    verbs = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "jobs" / "README.md"]:
        typed = set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", document.read_text()))
        assert typed <= verbs, f"{document.name} names {typed - verbs}, which the Makefile does not have"


def headings(document: Path) -> set[str]:
    """The anchors of a document, as GitHub makes them of its headings."""
    found = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def test_links_between_documents_lead_somewhere():
    dead = [
        f"{document.relative_to(ROOT)} -> {target}#{anchor}"
        for document in tracked()
        if document.suffix == ".md"
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text())
        if not (place := document.parent / target if target else document).exists()
        or (anchor and anchor not in headings(place))
    ]
    assert dead == []


def test_tests_that_the_documents_name_exist():
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = {
        f"{document.relative_to(ROOT)}: {name}"
        for document in tracked()
        if document.suffix == ".md"
        for name in re.findall(r"\btest_\w+\.py\b", document.read_text())
        if name not in there
    }
    assert named == set()
