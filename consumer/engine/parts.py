"""The parts of a network in service: its tensors and products, held by this process or shared by several.

Parts are shared in the form they are computed with: packed, and in the dtype that is served. The process that writes
them makes one part at a time and keeps none; from then on it maps the same bytes as the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .int8 import Int8
from .products import Packed, Plain, Product, product
from .slots import Kept, Slots, Writer
from .tensor_bytes import Described, bytes_of, describe, made_of

Shareable = Packed | Plain | Int8
_KINDS: dict[str, type[Shareable]] = {kind.__name__: kind for kind in (Packed, Plain, Int8)}


class Parts(Protocol):
    """Tensors, and products with them, by the names of a checkpoint.

    Attributes:
        fuses: whether a product's activation and multiplication cost nothing, so that one product for each half of the
            MLP's gate is better than one for the whole.
        means: how many heads of each layer are mean heads, whose queries and keys are left out (``means``).
    """

    fuses: bool
    means: int

    def tensor(self, name: str) -> Tensor: ...

    def products(self, name: str, cut: int | tuple[int, ...] = 1) -> Sequence[Product]:
        """The products with a weight that is cut at rows, or into equal parts, as by ``torch.tensor_split``."""
        ...


class OwnParts:
    """Parts made of tensors that this process holds."""

    def __init__(
        self, tensors: Mapping[str, Tensor], make: Callable[[Tensor], Product] = product, means: int = 0
    ) -> None:
        self._tensors = tensors
        self._make = make
        self.means = means
        # oneDNN activates and multiplies while it writes a product.
        self.fuses = make is product and all(tensor.device.type == "cpu" for tensor in tensors.values())

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def products(self, name: str, cut: int | tuple[int, ...] = 1) -> list[Product]:
        return [self._make(part) for part in self._tensors[name].tensor_split(cut)]


class SharedParts:
    """Parts in a slot of shared memory, beside tensors of the bare base."""

    def __init__(self, kept: Kept, common: Callable[[str], Tensor], *, fuses: bool) -> None:
        """
        Args:
            kept: what ``write_parts`` wrote.
            common: returns the tensors of the bare base, which were left out.
            fuses: as it was of the parts that were written.
        """
        self._memory = torch.frombuffer(kept.memory, dtype=torch.uint8)
        self._index: dict[str, Any] = kept.index
        self._common = common
        self.fuses, self.means = fuses, kept.index["means"]

    def tensor(self, name: str) -> Tensor:
        at = self._index["tensors"].get(name)
        return self._made(*at) if at else self._common(name)

    def products(self, name: str, _cut: int | tuple[int, ...] = 1) -> list[Product]:
        """The products, cut as they were when they were written."""
        written = self._index["products"][name]
        return [_KINDS[kind]([self._made(*each) for each in tensors], self._memory) for kind, tensors in written]

    def _made(self, begin: int, *described: Any) -> Tensor:
        return made_of(self._memory[begin:], Described(*described))


def write_parts(
    own: OwnParts, common: Callable[[str], Tensor], walk: Callable[[Parts], object], writer: Writer
) -> dict[str, Any]:
    """Write all parts that ``walk`` asks for, except ``common`` tensors, and return the index for ``SharedParts``.

    Args:
        own: the parts to write.
        common: returns the tensors of the bare base.
        walk: asks for all parts of a network; the network that it makes of them cannot be run.
        writer: of the slot.
    """
    written = _Written(own, common, writer)
    walk(written)
    return written.index


class _Written:
    """Parts that write themselves as they are asked for."""

    def __init__(self, own: OwnParts, common: Callable[[str], Tensor], writer: Writer) -> None:
        self._own = own
        self._common = common
        self._writer = writer
        self.fuses, self.means = own.fuses, own.means
        self.index: dict[str, Any] = {"means": own.means, "tensors": {}, "products": {}}

    def tensor(self, name: str) -> Tensor:
        tensor = self._own.tensor(name)
        if tensor is not self._common(name):
            self.index["tensors"][name] = self._add(tensor.contiguous())
        return tensor

    def products(self, name: str, cut: int | tuple[int, ...] = 1) -> list[Product]:
        made = [
            (type(one).__name__, one.tensors) for one in self._own.products(name, cut) if isinstance(one, Shareable)
        ]
        self.index["products"][name] = [(kind, [self._add(each) for each in tensors]) for kind, tensors in made]
        nothing: Any = None
        return [nothing] * len(made)  # the network is not run, and products that nobody holds are freed at once

    def _add(self, tensor: Tensor) -> tuple[Any, ...]:
        return self._writer.add(bytes_of(tensor)), *describe(tensor)


def shared_tensor(slots: Slots, key: str, make: Callable[[], Tensor]) -> Tensor:
    """The tensor of a key, made and written unless it is there already; this process's own if it cannot be shared."""

    def write(writer: Writer) -> Any:
        made = make().contiguous()
        return writer.add(bytes_of(made)), *describe(made)

    if not (kept := slots.get(key, write)):
        return make()
    begin, *described = kept.index
    return made_of(torch.frombuffer(kept.memory, dtype=torch.uint8)[begin:], Described(*described))
