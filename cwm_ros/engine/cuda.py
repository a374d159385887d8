# SPDX-FileCopyrightText: 2026 The cwm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Memory, streams, graphs and kernels of one NVIDIA GPU; the only door to the CUDA driver.

The driver's C interface is called with ctypes, which lets other threads run meanwhile: its
symbols have been stable since CUDA 11, every board that has a GPU has it, and nothing is to be
compiled or installed. Names and constants are those of ``cuda.h``.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
import threading
from typing import TYPE_CHECKING

import numpy as np

from cwm_ros.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    Argument = int | ctypes.c_void_p
    HostArray = (
        npt.NDArray[np.uint8 | np.int8 | np.uint16 | np.float16 | np.int32 | np.uint32]
        | npt.NDArray[np.float32 | np.uint64 | np.int64]
    )

OUT_OF_MEMORY = 2
NO_DEVICE = 100
STREAM_NON_BLOCKING = 1
HOST_PORTABLE_AND_MAPPED = 3
CAPTURE_THREAD_LOCAL = 1
ATTRIBUTES = {'major': 75, 'minor': 76, 'integrated': 18, 'clock_khz': 13}
LIBRARY = 'libcuda.so.1'
THREADS_PER_BLOCK = 256
STICKY_HINT = 'close the engine and open it again; KV that was on the GPU is lost'


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """
    What a GPU is.

    Parameters
    ----------
    name
        As the driver says it.
    capability
        Compute capability, such as (8, 7).
    is_integrated
        Whether it shares its memory with the processor.
    memory_bytes
        All of its memory [bytes].
    driver
        Newest CUDA that the driver runs, such as 13000.

    """

    name: str
    capability: tuple[int, int]
    is_integrated: bool
    memory_bytes: int
    driver: int


class Memory:
    """Memory on the GPU: ``address`` and ``num_bytes``; `free` may be called again."""

    def __init__(self, device: Device, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        pointer = c_void_p()
        device.call('cuMemAlloc_v2', byref(pointer), c_size_t(max(num_bytes, 1)))
        self.address = int(pointer.value or 0)
        self._device = device

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            with suppress(EngineError):
                self._device.call('cuMemFree_v2', c_void_p(self.address))
            self.address = 0


class Pinned:
    """
    Memory of the processor that the GPU can reach: ``array`` (uint8), and ``address`` for kernels.

    After `free` the array must not be touched.
    """

    def __init__(self, device: Device, num_bytes: int) -> None:
        self._device = device
        pointer, mapped = c_void_p(), c_void_p()
        device.call(
            'cuMemHostAlloc', byref(pointer), c_size_t(num_bytes), c_uint(HOST_PORTABLE_AND_MAPPED)
        )
        device.call('cuMemHostGetDevicePointer_v2', byref(mapped), pointer, c_uint(0))
        self.host_address, self.address = int(pointer.value or 0), int(mapped.value or 0)
        raw = (ctypes.c_uint8 * num_bytes).from_address(self.host_address)
        self.array: npt.NDArray[np.uint8] = np.frombuffer(memoryview(raw).cast('B'), np.uint8)

    def free(self) -> None:
        """Give the memory back."""
        if self.host_address:
            with suppress(EngineError):
                self._device.call('cuMemFreeHost', c_void_p(self.host_address))
            self.host_address = self.address = 0


class Stream:
    """An order of work on the GPU; ``handle`` is what other libraries want."""

    def __init__(self, device: Device, priority: int) -> None:
        self._device = device
        handle = c_void_p()
        device.call(
            'cuStreamCreateWithPriority', byref(handle), c_uint(STREAM_NON_BLOCKING), priority
        )
        self.handle = int(handle.value or 0)

    def wait(self) -> None:
        """Wait until all that was asked for is done; raises what went wrong meanwhile."""
        self._device.call('cuStreamSynchronize', c_void_p(self.handle))

    def upload(self, address: int, array: HostArray) -> None:
        """Copy a contiguous array to the GPU, in order."""
        self.upload_from(address, array.ctypes.data, array.nbytes)

    def upload_from(self, address: int, host_address: int, num_bytes: int) -> None:
        """Copy memory of the processor to the GPU, in order; it must stay until that is done."""
        self._device.call(
            'cuMemcpyHtoDAsync_v2',
            c_void_p(address),
            c_void_p(host_address),
            c_size_t(num_bytes),
            c_void_p(self.handle),
        )

    def download(self, array: HostArray, address: int) -> None:
        """Copy from the GPU to a contiguous array, in order; `wait` before it is read."""
        self._device.call(
            'cuMemcpyDtoHAsync_v2',
            c_void_p(array.ctypes.data),
            c_void_p(address),
            c_size_t(array.nbytes),
            c_void_p(self.handle),
        )

    def zero(self, address: int, num_bytes: int) -> None:
        """Write zeros, in order."""
        self._device.call(
            'cuMemsetD8Async',
            c_void_p(address),
            ctypes.c_ubyte(0),
            c_size_t(num_bytes),
            c_void_p(self.handle),
        )


class Kernels:
    """The kernels of ``kernels.cu``, compiled for this GPU."""

    def __init__(self, device: Device, image: bytes) -> None:
        self._device = device
        self._module = c_void_p()
        device.call('cuModuleLoadData', byref(self._module), c_char_p(image))
        self._functions: dict[str, c_void_p] = {}

    def launch(self, stream: Stream, name: str, num_threads: int, *args: Argument) -> None:
        """
        Run a kernel with at least so many threads, in order.

        Parameters
        ----------
        stream, name, num_threads
            Where, which and how wide.
        args
            An `int` is passed as a C int, a `c_void_p` as an address.

        """
        if name not in self._functions:
            function = c_void_p()
            self._device.call(
                'cuModuleGetFunction', byref(function), self._module, c_char_p(name.encode())
            )
            self._functions[name] = function
        values = [arg if isinstance(arg, c_void_p) else c_int(arg) for arg in args]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        num_blocks = -(-num_threads // THREADS_PER_BLOCK)
        grid = [c_uint(n) for n in (num_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, 0)]
        self._device.call(
            'cuLaunchKernel', self._functions[name], *grid, c_void_p(stream.handle), pointers, None
        )


class Graph:
    """Work that was recorded once, and is launched as one."""

    def __init__(self, device: Device, stream: Stream, record: Callable[[], None]) -> None:
        self._device = device
        handle, graph = c_void_p(stream.handle), c_void_p()
        self._executable = c_void_p()
        device.call('cuStreamBeginCapture_v2', handle, c_int(CAPTURE_THREAD_LOCAL))
        try:
            record()
        finally:
            device.call('cuStreamEndCapture', handle, byref(graph))
        try:
            device.call(
                'cuGraphInstantiateWithFlags',
                byref(self._executable),
                graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            device.call('cuGraphDestroy', graph)

    def launch(self, stream: Stream) -> None:
        """Run all of it, in order."""
        self._device.call('cuGraphLaunch', self._executable, c_void_p(stream.handle))

    def free(self) -> None:
        """Forget what was recorded."""
        if self._executable.value:
            with suppress(EngineError):
                self._device.call('cuGraphExecDestroy', self._executable)
            self._executable = c_void_p()


class Device:
    """
    One GPU and this process's context on it; every thread may use it.

    Parameters
    ----------
    number
        Which GPU.

    Raises
    ------
    EngineError
        There is no driver or no GPU.

    """

    def __init__(self, number: int = 0) -> None:
        self._threads = threading.local()
        self._taken: list[Memory | Pinned] | None = None
        self._library = _load_library()
        self._context = c_void_p()
        self._device = c_int()
        self._check('cuInit', self._library.cuInit(c_uint(0)))
        self._check('cuDeviceGet', self._library.cuDeviceGet(byref(self._device), c_int(number)))
        self._check(
            'cuDevicePrimaryCtxRetain',
            self._library.cuDevicePrimaryCtxRetain(byref(self._context), self._device),
        )
        self.info = self._read_info()

    def _read_info(self) -> DeviceInfo:
        name, memory, driver = ctypes.create_string_buffer(256), c_size_t(), c_int()
        self.call('cuDeviceGetName', name, c_int(256), self._device)
        self.call('cuDeviceTotalMem_v2', byref(memory), self._device)
        self.call('cuDriverGetVersion', byref(driver))
        values = {key: self._attribute(number) for key, number in ATTRIBUTES.items()}
        return DeviceInfo(
            name=name.value.decode(errors='replace'),
            capability=(values['major'], values['minor']),
            is_integrated=bool(values['integrated']),
            memory_bytes=memory.value,
            driver=driver.value,
        )

    def _attribute(self, number: int) -> int:
        value = c_int()
        self.call('cuDeviceGetAttribute', byref(value), c_int(number), self._device)
        return value.value

    def call(self, name: str, *args: object) -> None:
        """
        Call a function of the driver with this context current.

        Raises
        ------
        OutOfMemoryError
            The GPU's memory is full; nothing else is broken.
        EngineError
            The driver refused, or an earlier kernel failed.

        """
        if not getattr(self._threads, 'is_set', False):
            self._check('cuCtxSetCurrent', self._library.cuCtxSetCurrent(self._context))
            self._threads.is_set = True
        self._check(name, getattr(self._library, name)(*args))

    def _check(self, name: str, status: int) -> None:
        if status == 0:
            return
        text = c_char_p()
        self._library.cuGetErrorString(c_int(status), byref(text))
        reason = f'{name}: {(text.value or b"unknown").decode()} ({status})'
        if status == OUT_OF_MEMORY:
            raise OutOfMemoryError(
                f'the GPU is out of memory: {reason}', hint='set engine.context_tokens lower'
            )
        if status == NO_DEVICE:
            raise EngineError(
                f'there is no NVIDIA GPU: {reason}', hint='set engine.kind to onnxruntime'
            )
        raise EngineError(f'the GPU failed: {reason}', hint=STICKY_HINT)

    def activate(self) -> None:
        """Make the context current in this thread, for libraries that ask for it."""
        self.call('cuCtxGetDevice', byref(c_int()))

    def memory(self, num_bytes: int) -> Memory:
        """Return memory on the GPU; what is in it is arbitrary."""
        memory = Memory(self, num_bytes)
        if self._taken is not None:
            self._taken.append(memory)
        return memory

    def pinned(self, num_bytes: int) -> Pinned:
        """Return memory of the processor that the GPU reaches without a copy."""
        pinned = Pinned(self, num_bytes)
        if self._taken is not None:
            self._taken.append(pinned)
        return pinned

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Give back all memory that a block took if it fails; for one thread at a time."""
        before, self._taken = self._taken, []
        try:
            yield
        except BaseException:
            for memory in self._taken:
                memory.free()
            raise
        finally:
            self._taken = before

    def stream(self, priority: int = 0) -> Stream:
        """Return a new stream; a lower number goes first, and the GPU clips it to what it has."""
        return Stream(self, priority)

    def kernels(self, image: bytes) -> Kernels:
        """Return the kernels in a compiled image."""
        return Kernels(self, image)

    def graph(self, stream: Stream, record: Callable[[], None]) -> Graph:
        """Return what ``record`` asks of ``stream``; nothing of it is run yet."""
        return Graph(self, stream, record)

    def free_bytes(self) -> int:
        """Return how much of the GPU's memory is free [bytes]."""
        free, total = c_size_t(), c_size_t()
        self.call('cuMemGetInfo_v2', byref(free), byref(total))
        return free.value

    @contextmanager
    def timing(self, stream: Stream) -> Iterator[list[float]]:
        """Measure what a block asks of ``stream``; one number is appended at its end [ms]."""
        events = [c_void_p(), c_void_p()]
        for event in events:
            self.call('cuEventCreate', byref(event), c_uint(0))
        elapsed: list[float] = []
        self.call('cuEventRecord', events[0], c_void_p(stream.handle))
        yield elapsed
        self.call('cuEventRecord', events[1], c_void_p(stream.handle))
        stream.wait()
        value = c_float()
        self.call('cuEventElapsedTime', byref(value), events[0], events[1])
        elapsed.append(value.value)
        for event in events:
            self.call('cuEventDestroy_v2', event)

    def close(self) -> None:
        """Let go of the context; a second call does nothing."""
        if self._context.value:
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)
            self._context = c_void_p()


def addresses(values: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Return addresses as kernels read them."""
    return np.array(values, np.uint64)


def _load_library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as exc:
        raise EngineError(
            f'there is no NVIDIA driver: {exc}',
            hint='install it (a Jetson brings it), or set engine.kind to onnxruntime',
        ) from exc
