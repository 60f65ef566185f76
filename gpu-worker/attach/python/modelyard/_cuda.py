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
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._call("cuIpcCloseMemHandle", ctypes.c_uint64(self.address))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise CudaError(name, code)

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


class CudaArray:
    """Bytes on a device as `__cuda_array_interface__` describes them, for torch, cupy and others."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            # torch takes no read-only arrays
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def _driver() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"the CUDA driver library is not here: none of {', '.join(_LIBRARIES)}")
