"""Copies between host and GPUs, timed, by the driver's own library: without a CUDA toolkit or a framework.

Source: NVIDIA, CUDA Driver API; the functions with _v2 are those that cuda.h names since CUDA 4.0.
"""

from __future__ import annotations

import os
from ctypes import CDLL, byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p, create_string_buffer
from dataclasses import dataclass
from typing import Any, Callable

from minsky.gpus.model import bus_id
from minsky.nodecheck.check import Failure

LIBRARY = "libcuda.so.1"
SIZE = 256 * 2**20  # bytes of a copy: from some 64 MiB on the rate grows no more
COPIES, ROUNDS = 8, 3  # copies that are timed together; the best of so many times counts


@dataclass
class Device:
    """A GPU as CUDA has it; *bus_id* with its domain in 8 digits, *context* and *memory* where it is used."""

    number: int
    handle: Any
    bus_id: str
    context: Any = None
    memory: Any = None  # address of SIZE bytes


class Cuda:
    """The driver's library; what it refuses is a Failure in its own words."""

    def __init__(self) -> None:
        # so that GPUs have the numbers that nvidia-smi gives them
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        try:
            self._library = CDLL(LIBRARY)
        except OSError as error:
            raise Failure(
                f"no NVIDIA driver: {error}", f"install the driver, of which {LIBRARY} is a part"
            ) from error
        self._call("cuInit", 0)
        self.devices = [self._device(number) for number in range(self._told(c_int, "cuDeviceGetCount").value)]

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            Failure: it ended with another status than 0.
        """
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise Failure(f"{LIBRARY} has no {name}: the driver is too old") from error
        if status:
            words = c_char_p()
            self._library.cuGetErrorString(status, byref(words))
            raise Failure(f"{name}: {(words.value or b'unknown error').decode(errors='replace')} ({status})")

    def _told(self, kind: Any, name: str, *arguments: Any) -> Any:
        """Return what a function writes to where its first argument points."""
        answer = kind()
        self._call(name, byref(answer), *arguments)
        return answer

    def _device(self, number: int) -> Device:
        handle, address = self._told(c_int, "cuDeviceGet", number), create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", address, len(address), handle)
        return Device(number, handle, bus_id(address.value.decode()))

    def use(self, device: Device) -> None:
        """Make *device* the one that is meant from now on, with memory on it."""
        if device.context is None:
            device.context = self._told(c_void_p, "cuDevicePrimaryCtxRetain", device.handle)
        self._call("cuCtxSetCurrent", device.context)
        if device.memory is None:
            device.memory = self._told(c_uint64, "cuMemAlloc_v2", c_size_t(SIZE))

    def host_to_device(self, device: Device) -> float:
        """Return GB/s from pinned memory, which lies near the CPUs that this process may run on."""
        self.use(device)
        host = self._told(c_void_p, "cuMemHostAlloc", c_size_t(SIZE), 0)
        rate = self._rate(lambda: self._call(
            "cuMemcpyHtoDAsync_v2", device.memory, host, c_size_t(SIZE), c_void_p()
        ))  # fmt: skip
        self._call("cuMemFreeHost", host)
        return rate

    def peer(self, source: Device, target: Device) -> tuple[float, bool]:
        """Return GB/s from one GPU to another, and whether it goes there without the host's memory."""
        self.use(target)
        self.use(source)
        direct = self._told(c_int, "cuDeviceCanAccessPeer", source.handle, target.handle).value != 0
        if direct:
            self._call("cuCtxEnablePeerAccess", target.context, 0)
        ends = (target.memory, target.context, source.memory, source.context)
        return self._rate(lambda: self._call("cuMemcpyPeerAsync", *ends, c_size_t(SIZE), c_void_p())), direct

    def _rate(self, copy: Callable[[], None]) -> float:
        """Return GB/s of *copy*, which copies SIZE bytes."""
        copy()  # the first one pays for what is made once
        begin, end = (self._told(c_void_p, "cuEventCreate", 0) for _ in range(2))
        best = float("inf")
        for _ in range(ROUNDS):
            self._call("cuEventRecord", begin, c_void_p())
            for _ in range(COPIES):
                copy()
            self._call("cuEventRecord", end, c_void_p())
            self._call("cuEventSynchronize", end)
            best = min(best, self._told(c_float, "cuEventElapsedTime", begin, end).value)  # ms
        return COPIES * SIZE / best / 1e6
