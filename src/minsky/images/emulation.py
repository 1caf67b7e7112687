"""Foreign architectures: qemu-user, to which the kernel hands their programs through binfmt_misc.

A handler of our own, since a distribution's may be too old to be believed: before release 8.1 qemu refuses
`mffsl`, which every libm executes and a POWER8 takes for `mffs`; NumPy dies of it. And plain qemu executes
what only a POWER9 does. `faithful` asks for both.
"""

import platform
import signal
import struct
import subprocess
import tempfile
from pathlib import Path

from minsky import system
from minsky.errors import MinskyError
from minsky.images import build
from minsky.images.engine import console, docker, member
from minsky.images.recipes import image
from minsky.paths import CACHE

BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MAGIC = (  # ELF, 64 bits, little-endian, an executable or a shared object, machine 21
    rb"\x7fELF\x02\x01\x01" + rb"\x00" * 9 + rb"\x02\x00\x15\x00",
    rb"\xff" * 7 + rb"\xfc" + rb"\xff" * 8 + rb"\xfe\xff\xff\x00",
)
MFFSL, DARN, EXIT = 0xFC38048E, 0x7C6105E6, (0x38000001, 0x38600000, 0x44000002)


def environment(arch: str, cpu: str) -> dict[str, str]:
    """What programs of *arch* need in their environment to run here; nothing where it is this machine's own.

    Args:
        arch: as `uname -m` names it.
        cpu: the processor that qemu is to be, which refuses instructions of newer ones.

    Raises:
        MinskyError: *arch* is foreign, and there is no emulation and no way to set it up.
    """
    if arch == platform.machine():
        return {}
    if arch != "ppc64le":
        raise MinskyError(
            f"Programs of {arch} do not run on this {platform.machine()} machine, and only ppc64le is "
            f"emulated: type the same command on a machine whose `uname -m` says {arch}."
        )
    if not (_handler(arch).exists() and faithful(cpu)):
        _register(arch)
        if not faithful(cpu):
            raise MinskyError(
                f"qemu was handed to the kernel ({_handler(arch)}), but the result is no {cpu}: see whether "
                f"another handler for {arch} came later (`grep -H interpreter {BINFMT}/*`), remove it (`echo "
                "-1` into its file), and type the same command again."
            )
    return {"QEMU_CPU": cpu}


def faithful(cpu: str) -> bool:
    """Whether a program of ppc64le runs here as on *cpu*, a POWER8: `mffsl` as `mffs`, and no `darn`."""
    return _run(cpu, MFFSL) == 0 and _run(cpu, DARN) == -signal.SIGILL


def _run(cpu: str, instruction: int) -> int | None:
    """Exit status of a program that executes *instruction* and ends; None where the kernel cannot run it."""
    place = CACHE / "qemu"  # as the emulator itself: a /tmp may be mounted noexec
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        program = Path(scratch) / "probe"
        program.write_bytes(elf(instruction, *EXIT))
        program.chmod(0o755)
        try:
            return subprocess.run(
                [program], env={"QEMU_CPU": cpu}, capture_output=True, check=False
            ).returncode
        except OSError:
            return None


def elf(*instructions: int) -> bytes:
    """A program for ppc64le of these *instructions*: header, one segment, code (ELF specification 1.2)."""
    code = struct.pack(f"<{len(instructions)}I", *instructions)
    address, header, size = 0x10000000, 64, 64 + 56
    head = struct.pack("<4s5B7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 2, 21, 1, address + size, header,
                       0, 2, 64, 56, 1, 0, 0, 0)  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, address, address, size + len(code), size + len(code), 0x10000)
    return head + segment + code


def remove() -> None:
    """Take our handlers back from the kernel, and leave binfmt_misc as it was found."""
    for handler in BINFMT.glob("minsky-*"):
        _write(handler, b"-1", why="Emulation stays set up")
    if _mounted().exists():
        subprocess.run([*(system.as_root() or []), "umount", BINFMT], check=False)
        _mounted().unlink()


def _mounted() -> Path:
    """There where binfmt_misc was mounted by us."""
    return CACHE / "qemu" / "mounted"


def _handler(arch: str) -> Path:
    return BINFMT / f"minsky-{arch}"


def _register(arch: str) -> None:
    """Have the kernel hold a qemu open (flag F): containers have none of their own."""
    why = f"Programs of {arch} do not run on this {platform.machine()} machine without emulation"
    program = _qemu(arch)
    if not (BINFMT / "register").exists():
        prefix = system.as_root()
        done = prefix is not None and subprocess.run(
            [*prefix, "mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=False
        )
        if not done or done.returncode:
            raise MinskyError(
                f"{why}, and the kernel's binfmt_misc, which would hand them over, is not to be had here. As "
                f"root: modprobe binfmt_misc; mount -t binfmt_misc binfmt_misc {BINFMT} - or build on a "
                f"machine whose `uname -m` says {arch}."
            )
        _mounted().touch()
    if _handler(arch).exists():
        _write(_handler(arch), b"-1", why=why)
    console.print(f"[qemu] the kernel hands programs of {arch} to {program} (until a reboot or `make clean`)")
    entry = b":".join([b"", f"minsky-{arch}".encode(), b"M", b"", *_MAGIC, str(program).encode(), b"F"])
    _write(BINFMT / "register", entry, why=why)


def _write(file: Path, what: bytes, why: str) -> None:
    prefix = system.as_root()
    done = prefix is not None and subprocess.run(
        [*prefix, "tee", file], input=what, stdout=subprocess.DEVNULL, check=False
    )
    if not done or done.returncode:
        raise MinskyError(f"{why}: {file} was not to be written. Type the same command as root.")


def _qemu(arch: str) -> Path:
    """The program, out of the image that has it, in the cache."""
    tag = build.ensure(image("qemu"))
    path = CACHE / "qemu" / f"qemu-{arch}-{image('qemu').key}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(member(docker(), tag, f"/usr/bin/qemu-{arch}"))
        unfinished.chmod(0o755)
        unfinished.rename(path)
    return path
