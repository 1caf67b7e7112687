"""Each check of each node, as its own test; which there are, conftest.py asks the nodes."""

import pytest

from minsky.nodecheck.check import FAILED, SKIPPED


def test_smoke(cell, record_property):
    report, result = cell
    about = {
        "node": report.node, "class": report.class_name, "simulated": report.simulated,
        "expected": result.expected, "found": result.found, "verdict": result.verdict,
    }  # fmt: skip
    for name, value in about.items():
        record_property(name, value)
    if result.verdict == SKIPPED:
        pytest.skip(result.found)
    if result.verdict == FAILED:
        words = f"{report.node}, {result.name}\nexpected: {result.expected}\nfound:    {result.found}"
        pytest.fail(f"{words}\ndo:       {result.do}", pytrace=False)
