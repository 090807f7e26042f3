"""Tensors as bytes in a file that several processes map, including weights that oneDNN has packed.

A packed weight has an opaque layout. torch exposes its bytes and its description (``torch.ops.mkldnn``), and makes the
tensor again from both over existing memory: AOTInductor maps the weights of compiled models this way, through a C
interface. The Python part of this is not public: it is tried once, and where it does not work nothing is shared.
"""

import base64
import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .products import Packed, packing_works


class Described(NamedTuple):
    """A tensor's metadata. ``packed`` is oneDNN's description of a tensor that it packed, in base64, else None."""

    dtype: str
    shape: list[int]
    packed: str | None


def describe(tensor: Tensor) -> Described:
    """The metadata of a tensor on the CPU."""
    form: Any = torch.ops.mkldnn._get_mkldnn_serialized_md(tensor) if tensor.is_mkldnn else None
    packed = None if form is None else base64.b64encode(bytes(form.tolist())).decode()
    return Described(str(tensor.dtype).removeprefix("torch."), list(tensor.shape), packed)


def bytes_of(tensor: Tensor) -> memoryview:
    """A view of a tensor's bytes in memory; the tensor must be contiguous, and outlive the view."""
    of: Any = torch.ops.mkldnn
    packed = tensor.is_mkldnn
    address, length = (of.data_ptr(tensor), of._nbytes(tensor)) if packed else (tensor.data_ptr(), tensor.nbytes)
    return memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")


def made_of(memory: Tensor, described: Described) -> Tensor:
    """The tensor whose bytes begin where ``memory`` does, not copied. A packed one does not keep ``memory`` alive."""
    dtype: torch.dtype = getattr(torch, described.dtype)
    if described.packed is None:
        count = torch.Size(described.shape).numel() * dtype.itemsize
        return memory[:count].view(dtype).view(described.shape)
    return _opaque(memory.data_ptr(), described)


@cache
def sharing_works() -> bool:
    """Whether a packed weight made again from its bytes gives the same products; tried once, on a small weight."""
    generator = torch.Generator().manual_seed(1)
    weight, rows = (torch.randn(size, generator=generator) for size in ((48, 64), (33, 64)))
    if not packing_works(weight.dtype):
        return True  # nothing is packed here
    try:
        with torch.inference_mode():
            packed = Packed.of(weight)
            memory = torch.frombuffer(bytearray(bytes_of(packed.tensors[0])), dtype=torch.uint8)
            again = Packed([made_of(memory, describe(packed.tensors[0]))], memory)
            return torch.equal(again(rows), packed(rows))
    except (RuntimeError, AttributeError, OSError, TypeError):
        return False


def _opaque(address: int, described: Described) -> Tensor:
    library = _library()
    shape = described.shape
    strides = [torch.Size(shape[number + 1 :]).numel() for number in range(len(shape))]
    form, handle = base64.b64decode(described.packed or ""), ctypes.c_void_p()
    numbers = ctypes.c_int64 * len(shape)
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        *(ctypes.c_void_p(address), ctypes.c_int64(len(shape)), numbers(*shape), numbers(*strides), ctypes.c_int64(0)),
        ctypes.c_int32(getattr(library, f"aoti_torch_dtype_{described.dtype}")()),
        *(ctypes.c_int32(library.aoti_torch_device_type_cpu()), ctypes.c_int32(0), ctypes.byref(handle)),
        *(ctypes.c_int32(library.aoti_torch_layout__mkldnn()), form, ctypes.c_int64(len(form))),
    )
    if failed:
        raise RuntimeError("torch makes no tensor of what oneDNN packed")
    aoti: Any = torch._C._aoti
    tensor: Tensor = aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle))
    return tensor


def _capsule(handle: ctypes.c_void_p) -> object:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    made: object = new(handle, None, None)
    return made


@cache
def _library() -> ctypes.CDLL:
    """torch's own library, which is loaded already."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
