"""The client's side of the attach socket: frames, the mapped memory file, arrays and tensors over it.

A frame is five bytes (length of the text, little-endian; 1 when a descriptor comes with it) and a JSON text.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import socket as sockets
import struct
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cuda import Closing, CudaArray, CudaError, CudaMemory

if TYPE_CHECKING:
    import torch

DEFAULT_SOCKET = "/run/modelyard/attach.sock"
SOCKET_VARIABLE = "MODELYARD_ATTACH_SOCKET"
_HEADER = struct.Struct("<IB")
_LONGEST = 16 << 20

_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


class AttachError(RuntimeError):
    """The agent refused, or could not be reached. `code` is one of the farm's codes, `forbidden`, or `unavailable`."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.hint = hint


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in the attached memory: its element type as safetensors writes it, its shape, and where its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class _Index(Mapping[str, TensorInfo]):
    """The tensors as the agent lists them, one list for each property. An entry is made when it is asked for: a program that
    wants one tensor of a thousand does not wait for the others.
    """

    def __init__(self, lists: dict[str, list[Any]], base: int) -> None:
        self._places = {name: place for place, name in enumerate(lists["names"])}
        self._lists = lists
        self._base = base

    def __getitem__(self, name: str) -> TensorInfo:
        place = self._places[name]
        lists = self._lists
        shape = tuple(map(int, filter(None, lists["shapes"][place].split(","))))
        offset = self._base + lists["offsets"][place]
        return TensorInfo(name, lists["dtypes"][place], shape, offset, lists["lens"][place])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Attachment(Mapping[str, "np.ndarray[Any, np.dtype[Any]]"]):
    """The tensors of one component by name, as read-only numpy arrays over the agent's memory.

    On a CUDA device there are no numpy arrays: `torch()` gives tensors, `pointer()` addresses.
    """

    def __init__(self, connection: sockets.socket, answer: dict[str, Any], memory: mmap.mmap | CudaMemory) -> None:
        if not isinstance(answer["tensors"], dict):
            raise AttachError(
                "unavailable",
                "the agent lists tensors otherwise than this client reads them",
                "install the client that comes with the agent",
            )
        self._memory: mmap.mmap | CudaMemory | None = memory
        # the connection is the lease, and lives as long as the memory: each array or tensor holds that, also when the attachment is gone
        closing = memory.closing if isinstance(memory, CudaMemory) else None
        self._lease = weakref.finalize(memory, _give_back, closing, connection)
        # the end of the process ends both
        self._lease.atexit = False
        self.model: str = answer["model"]
        self.component: str = answer["component"]
        self.component_id: str = answer["id"]
        self.digest: str = answer["digest"]
        self.nbytes: int = answer["bytes"]
        #: Whether the weights were there already.
        self.was_resident: bool = answer["resident"]
        #: `ram` or `vram`.
        self.tier: str = answer["tier"]
        #: The agent's name of the device, for `vram`.
        self.device: str | None = answer.get("device")
        self.tensors: Mapping[str, TensorInfo] = _Index(answer["tensors"], int(answer["offset"]))

    def __getitem__(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        info = self.tensors[name]
        dtype = _NUMPY.get(info.dtype)
        if dtype is None:
            raise TypeError(f"numpy has no type for {info.dtype} of `{name}`: use .torch() or .bits({name!r})")
        return self._array(info, dtype).reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def bits(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a tensor as they are, in one dimension."""
        return self._array(self.tensors[name], np.dtype("u1"))

    def pointer(self, name: str) -> int:
        """The address of a tensor on its CUDA device, in this process."""
        memory = self._opened()
        if not isinstance(memory, CudaMemory):
            raise TypeError(f"`{name}` is in host memory: index the attachment, or use .bits({name!r})")
        return memory.address + self.tensors[name].offset

    def torch(self) -> dict[str, torch.Tensor]:
        """All tensors as torch tensors over the same memory. They must not be written to."""
        import torch

        return {info.name: self._tensor(info, torch) for info in self.tensors.values()}

    def close(self) -> None:
        """Gives the memory back, and the lease with it. While arrays or tensors over host memory are held, both stay until the
        last of them is gone; tensors on a CUDA device are void.
        """
        memory, self._memory = self._memory, None
        if memory is None:
            return
        if not isinstance(memory, CudaMemory):
            try:
                memory.close()
            except BufferError:
                # somebody still holds an array: the mapping goes with the last one, and then the lease
                return
        self._lease()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Attachment {self.model}/{self.component}: {len(self)} tensors, {self.nbytes} bytes>"

    def _opened(self) -> mmap.mmap | CudaMemory:
        if self._memory is None:
            raise ValueError("the attachment is closed")
        return self._memory

    def _open(self) -> mmap.mmap:
        memory = self._opened()
        if isinstance(memory, CudaMemory):
            raise TypeError(f"the weights are on device `{self.device}`: use .torch() or .pointer(name)")
        return memory

    def _array(self, info: TensorInfo, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
        count = info.nbytes // dtype.itemsize
        return np.frombuffer(self._open(), dtype=dtype, count=count, offset=info.offset)

    def _tensor(self, info: TensorInfo, torch: Any) -> Any:
        name = _TORCH.get(info.dtype)
        dtype = getattr(torch, name, None) if name else None
        if dtype is None:
            raise TypeError(f"this torch has no type for {info.dtype} of `{info.name}`: use .bits({info.name!r})")
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=dtype)
        memory = self._opened()
        if isinstance(memory, CudaMemory):
            there = CudaArray(memory, memory.address + info.offset, info.nbytes)
            return torch.as_tensor(there, device=f"cuda:{memory.ordinal}").view(dtype).reshape(info.shape)
        with warnings.catch_warnings():
            # torch says that the memory is read-only; it is meant to be
            warnings.simplefilter("ignore", UserWarning)
            # through an array: torch alone keeps the mapping object, but does not keep it from being closed
            flat = torch.frombuffer(self._array(info, np.dtype("u1")), dtype=torch.uint8)
        return flat.view(dtype).reshape(info.shape)


def _give_back(closing: Closing | None, connection: sockets.socket) -> None:
    """The lease goes last: a device's memory must not be freed while it is open here."""
    try:
        if closing is not None:
            closing()
    except CudaError:
        # the agent's process is gone, and the memory with it
        pass
    finally:
        connection.close()


def attach(
    model: str,
    component: str | None = None,
    tier: str = "ram",
    *,
    device: str | None = None,
    load: bool = True,
    wait_seconds: float = 600.0,
    socket: str | os.PathLike[str] | None = None,
) -> Attachment:
    """Attaches to a component of a model, by id or name.

    `component` may be left out when the model has only one. `tier` is `ram` or `vram`; `device` names a device of the host
    for `vram`, any will do without it. Weights that are not there are loaded first unless `load` is false; `wait_seconds`
    bounds that. Raises `AttachError` with the agent's reason.
    """
    path = os.fspath(socket) if socket is not None else os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET)
    connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        try:
            connection.connect(path)
        except OSError as error:
            hint = "start the agent with --attach-socket"
            raise AttachError("unavailable", f"no agent serves `{path}`: {error.strerror}", hint) from error
        wanted = {
            "model": model,
            "component": component,
            "tier": tier,
            "device": device,
            "load": load,
            "wait_seconds": wait_seconds,
        }
        _send(connection, {"attach": wanted})
        answer, descriptor = _receive(connection)
        if "error" in answer:
            refusal = answer["error"]
            raise AttachError(refusal["code"], refusal["message"], refusal.get("hint"))
        return Attachment(connection, answer["attached"], _map(answer["attached"], descriptor))
    except BaseException:
        connection.close()
        raise


def _map(attached: dict[str, Any], descriptor: int | None) -> mmap.mmap | CudaMemory:
    cuda = attached.get("cuda")
    if cuda is not None:
        try:
            return CudaMemory(bytes(cuda["handle"]), cuda["uuid"])
        except (CudaError, OSError) as error:
            hint = "the program must see the device: the same driver, and CUDA_VISIBLE_DEVICES"
            raise AttachError("unavailable", str(error), hint) from error
    if descriptor is None:
        raise AttachError("unavailable", "the agent sent no descriptor")
    try:
        length = int(attached["offset"]) + int(attached["bytes"])
        return mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _send(connection: sockets.socket, message: dict[str, Any]) -> None:
    text = json.dumps(message).encode()
    try:
        connection.sendall(_HEADER.pack(len(text), 0) + text)
    except BrokenPipeError:
        # the agent refused already; its answer says why
        pass


def _receive(connection: sockets.socket) -> tuple[dict[str, Any], int | None]:
    descriptors = array.array("i")
    space = sockets.CMSG_SPACE(descriptors.itemsize)
    header, ancillary, _, _ = connection.recvmsg(_HEADER.size, space, sockets.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == sockets.SOL_SOCKET and kind == sockets.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    try:
        header += _exactly(connection, _HEADER.size - len(header))
        length, _ = _HEADER.unpack(header)
        if length > _LONGEST:
            raise AttachError("unavailable", f"an answer claims {length} bytes")
        answer: dict[str, Any] = json.loads(_exactly(connection, length))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return answer, descriptors[0] if descriptors else None


def _exactly(connection: sockets.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise AttachError("unavailable", "the agent ended the connection")
        parts += part
    return bytes(parts)
