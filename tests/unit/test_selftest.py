"""The lab image's own test, where it runs no image: what it makes of ranks, files, libraries and programs."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest

from minsky.paths import ROOT

SPEC = importlib.util.spec_from_file_location("selftest", ROOT / "images" / "lab" / "selftest.py")
selftest = importlib.util.module_from_spec(SPEC)
with patch.dict(os.environ):  # what it sets is for its container
    SPEC.loader.exec_module(selftest)


def agree(*lines):
    """`agree` under a launcher that prints *lines* in the place of ranks."""
    selftest.agree(["sh", "-c", 'printf "%s\\n" "$@"; exit', "sh", *lines, "--"], "numpy")


def test_ranks_that_agree_pass_with_the_device_that_they_summed_on(capsys):
    agree("rank 1 of 2 sums to 3 on GPU:0", "rank 0 of 2 sums to 3 on GPU:0")
    assert capsys.readouterr().out == "sh: 2 ranks agree, through numpy on GPU:0\n"


def test_two_processes_that_are_each_rank_0_of_1_are_named_with_the_cause():
    with pytest.raises(SystemExit, match=r"each is rank 0 of 1: the MPI that they load is not sh's own"):
        agree("rank 0 of 1 sums to 1", "rank 0 of 1 sums to 1")


@pytest.mark.parametrize("second", ["", "rank 1 of 2 sums to 2", "rank 1 of 3 sums to 3"])
def test_a_rank_that_is_missing_or_counts_otherwise_is_refused(second):
    with pytest.raises(SystemExit, match="not 2 ranks that agree"):
        agree("rank 0 of 2 sums to 3", second)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('echo "rank 0 of 1 sums to 1"', "are told from ranks"),
        ('echo "rank 0 of 2 sums to 3"', "pass for ranks"),
        ("echo no MPI at all", "the wrong reason"),
    ],
)
def test_the_mismatch_that_it_provokes_must_be_named(body, says, monkeypatch, capsys):
    monkeypatch.setattr(selftest, "SELF", ["sh", "-c", body])
    try:
        selftest.disagree()
        said = capsys.readouterr().out
    except SystemExit as error:
        said = str(error)
    assert says in said


def test_a_command_that_hangs_ends_with_a_sentence_and_its_last_lines(monkeypatch):
    monkeypatch.setattr(selftest, "LIMIT", 0.5)
    with pytest.raises(SystemExit, match=r"sleep 60` has not ended after 0\.5 seconds.*\nthe port is taken"):
        selftest.run(["sh", "-c", "echo the port is taken; exec sleep 60"])


def test_a_setuid_program_that_we_may_not_read_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read all
    program = tmp_path / "program"
    program.touch()
    assert not selftest.lifts(program)
    program.chmod(0o4711)
    assert [path for path in selftest.files(tmp_path) if selftest.lifts(path)] == [program]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a file capabilities")
def test_a_program_with_file_capabilities_is_found(tmp_path):
    program = tmp_path / "ping"
    program.touch()
    net_raw = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(program, "security.capability", net_raw)
    assert selftest.lifts(program)


@pytest.mark.parametrize(
    ("path", "needs", "allowed"),
    [
        ("horovod/tensorflow/mpi_lib.so", "libnccl.so.2", False),
        ("horovod/tensorflow/mpi_lib.so", "libtensorflow_cc.so.2", True),
        ("horovod/tensorflow/mpi_lib.so", "libmpi.so.12", False),
        ("tensorflow/libtensorflow_cc.so.2", "libnccl.so.2", False),
        ("scipy.libs/libgfortran-8f1e9814.so.5.0.0", "libquadmath-828275a7.so.0.0.0", True),
        ("scipy.libs/libgfortran-8f1e9814.so.5.0.0", "libm.so.6", False),
        ("mpi4py/MPI.mpich.cpython-311-x86_64-linux-gnu.so", "libmpi.so.12", True),
        ("mpi4py/MPI.openmpi.cpython-311-x86_64-linux-gnu.so", "libmpi.so.12", False),
    ],
)
def test_only_what_is_loaded_before_need_not_be_found(path, needs, allowed):
    names = {"libnccl.so.2", "libtensorflow_cc.so.2", "libquadmath-828275a7.so.0.0.0"}
    assert (needs in selftest.loaded_before(Path("/opt/lab") / path, names)) == allowed


def test_no_library_at_all_is_refused(monkeypatch):
    monkeypatch.setattr(selftest, "elves", lambda _: iter(()))
    with pytest.raises(SystemExit, match="no program and no library"):
        selftest.find_libraries()


def test_only_what_starts_counts_as_started(tmp_path, monkeypatch, capsys):
    true = shutil.which("true")
    libc = re.search(r"=> (\S+)", subprocess.check_output(["ldd", true], text=True))[1]
    refused, no_library = tmp_path / "refused", tmp_path / "none.so"
    refused.touch()
    no_library.write_text("no library")
    files = [Path(true), Path(libc), refused, no_library]
    assert [selftest.start(path) for path in files] == [
        "starts",
        "loads",
        "Permission denied",
        "cannot be preloaded",
    ]
    monkeypatch.setattr(selftest, "elves", lambda _: iter(files))
    selftest.start_everything("power8nvl")
    said = capsys.readouterr().out
    assert "1 programs start and 1 libraries load on an emulated power8nvl" in said
    assert f"1 not tried, Permission denied: {refused}\n" in said


def test_a_program_that_dies_of_an_instruction_is_named(tmp_path, monkeypatch):
    program = tmp_path / "newer"
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o700)
    monkeypatch.setattr(selftest, "elves", lambda _: iter([program]))
    with pytest.raises(SystemExit, match=f"instructions that power8nvl lacks: {program}"):
        selftest.start_everything("power8nvl")
