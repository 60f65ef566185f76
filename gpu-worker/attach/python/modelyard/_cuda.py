"""Memory of a CUDA device that another process made: opened through the driver library, nothing else is needed."""

from __future__ import annotations

import ctypes
from typing import Any

_LIBRARIES = ("libcuda.so.1", "libcuda.so")
_LAZY_PEER_ACCESS = 1


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * 64)]


class CudaError(RuntimeError):
    """The driver refused a call; `code` is its answer."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"the CUDA driver answers {call} with {code}")
        self.code = code


class CudaMemory:
    """An opened handle. The memory is another process's: it must not be written to."""

    def __init__(self, handle: bytes, uuid: str | None) -> None:
        self._driver = _driver()
        self._call("cuInit", 0)
        device = self._device(uuid)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        #: Number of the device in this process.
        self.ordinal: int = device
        opened = ctypes.c_uint64()
        theirs = _Handle.from_buffer_copy(handle.ljust(64, b"\0")[:64])
        self._call("cuIpcOpenMemHandle_v2", ctypes.byref(opened), theirs, _LAZY_PEER_ACCESS)
        #: Address of the first byte on the device.
        self.address: int = opened.value
        #: Closes it once, and needs this object no more: for whoever closes after it is gone.
        self.closing: Closing = Closing(self._driver, self.address)

    def close(self) -> None:
        self.closing()

    def _call(self, name: str, *arguments: Any) -> None:
        _call(self._driver, name, *arguments)

    def _device(self, uuid: str | None) -> int:
        """The device by its id: processes number devices as they like."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        wanted = (uuid or "").split("-", 1)[-1].replace("-", "").lower()
        for ordinal in range(count.value):
            device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
            self._call("cuDeviceGet", ctypes.byref(device), ordinal)
            self._call("cuDeviceGetUuid_v2", found, device)
            if uuid is None or bytes(found).hex() == wanted:
                return device.value
        raise CudaError(f"for a device {uuid}: it is not visible to this process;", 101)


class Closing:
    """Closes an opened handle, the first time that it is called."""

    def __init__(self, driver: ctypes.CDLL, address: int) -> None:
        self._driver, self._address, self._open = driver, address, True

    def __call__(self) -> None:
        if self._open:
            self._open = False
            _call(self._driver, "cuIpcCloseMemHandle", ctypes.c_uint64(self._address))


class CudaArray:
    """Bytes on a device as `__cuda_array_interface__` describes them, for torch, cupy and others: who keeps this keeps the memory."""

    def __init__(self, memory: CudaMemory, address: int, nbytes: int) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            # torch takes no read-only arrays
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def _call(driver: ctypes.CDLL, name: str, *arguments: Any) -> None:
    code = getattr(driver, name)(*arguments)
    if code != 0:
        raise CudaError(name, code)


def _driver() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"the CUDA driver library is not here: none of {', '.join(_LIBRARIES)}")
