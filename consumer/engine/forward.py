"""The forward pass, the same for serving and for training: every question of every prompt in one go.

Prompts stand in one row of tokens, one behind the other, without padding; each attends to itself alone. The prompt's
fixed beginning is run once, and its keys and values stand before those of each prompt. The last layer is run at the
slots only, and multiplied by the rows of the label tokens only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..memory import LARGE_BLOCK_BYTES
from . import Tokens
from .attention import Past
from .distinct import distinct, spread
from .layers import LastLayer, Layer, ServedLast, ServedLayer, TrainedLayer
from .learning import PIECE
from .means import mean_heads
from .parts import Parts
from .rotary import Rotation, cosines_and_sines, rotate
from .rows import Attention, Row, Rows
from .shape import Shape, shape_of
from .tokens import PromptEncoder
from .varlen import moved, varlen_works

if TYPE_CHECKING:
    from transformers import Phi3ForCausalLM

Prefix = list[Past]
"""Of every layer."""


@dataclass(frozen=True)
class Network:
    """What a forward pass is made of.

    Attributes:
        embed: token ids to rows.
        last: of the layers, as it answers at the slots.
        norm: what follows the last layer.
        head: gives the rows of all tokens that may come next, shape (vocabulary, hidden size).
    """

    shape: Shape
    embed: Callable[[Tensor], Tensor]
    layers: Sequence[Layer]
    last: LastLayer
    norm: Callable[[Tensor], Tensor]
    head: Callable[[], Tensor]


def served(parts: Parts, shape: Shape) -> Network:
    """Of bare weights, named as transformers names them in a file; without gradient."""
    shape = replace(shape, means=parts.means)
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    embedding, norm, head = map(parts.tensor, names)
    layers = [ServedLayer(parts, number, shape) for number in range(shape.layers - 1)]
    last = ServedLast(parts, shape.layers - 1, shape, over_states=not varlen_works(head.device, head.dtype))
    return Network(
        shape,
        lambda ids: functional.embedding(ids, embedding),
        [*layers, last],
        last,
        lambda rows: functional.rms_norm(rows, norm.shape, norm, shape.epsilon),
        lambda: head,
    )


def trained(phi3: "Phi3ForCausalLM") -> Network:
    """Of a model whose weights, or LoRA layers in it, learn."""
    shape = shape_of(phi3.config.to_dict())
    if phi3.device.type == "cpu":
        shape = replace(shape, means=mean_heads(map(_joint, phi3.model.layers), shape))
    layers = [TrainedLayer(layer, shape) for layer in phi3.model.layers]
    return Network(shape, phi3.model.embed_tokens, layers, layers[-1], phi3.model.norm, lambda: phi3.lm_head.weight)


def _joint(layer: Any) -> list[Tensor]:
    """What makes queries, keys and values of one layer: its weight, and LoRA's second matrices."""
    module = layer.self_attn.qkv_proj
    if not hasattr(module, "lora_B"):
        return [module.weight]
    return [module.base_layer.weight, *(up.weight for up in module.lora_B.values())]


class Forward:
    """Runs a network over the prompts of one encoder, where the network's weights are."""

    def __init__(self, network: Network, encoder: PromptEncoder) -> None:
        self._network = network
        self._shape = network.shape
        head = network.head()
        self._device = head.device
        rotation = cosines_and_sines(self._shape.rotary, encoder.max_tokens, head.dtype, self._device)
        self._prefix_ids = torch.tensor(encoder.prefix, device=self._device)
        over_states = network.last.over_states
        self._rows = Rows(rotation, self._shape.window, len(encoder.prefix), over_states=over_states)
        self._offsets = [slot.offset for slot in encoder.slots]
        self._labels = [torch.tensor(slot.labels, device=self._device) for slot in encoder.slots]

    def run_prefix(self) -> Prefix:
        """The prompt's fixed beginning, once; with gradient where gradients are enabled."""
        row = self._rows.beginning()
        hidden = self._network.embed(self._prefix_ids)
        kept: Prefix = []
        for layer in self._network.layers[:-1]:
            query, key, value = self._projected(layer, hidden, row)
            kept.append((key, value))
            hidden = layer.finish(hidden, row.attention.attend(query, key, value))
        anywhere = self._prefix_ids.new_zeros(1)  # nobody asks there
        _, key, value = self._heads_at(hidden, anywhere, row.rotation, row.attention)
        return [*kept, (key, value)]

    def slot_logits(self, ids: Tensor, lengths: Sequence[int], prefix: Prefix | None = None) -> list[Tensor]:
        """Label logits for each question, in float32, each of shape (prompts, labels).

        Args:
            ids: what follows the prefix, of all prompts one behind the other; shape (tokens,).
            lengths: the tokens of each.
            prefix: from ``run_prefix``; run anew where None.
        """
        past = prefix or self.run_prefix()
        rotation, _, hidden = self._through(ids, lengths, past[:-1])
        states = self._at_slots(hidden, rotation, lengths, past[-1])
        return self.label_logits(self._network.norm(states))

    def all_states(self, ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The states before the last layer and after it, of every token; arguments as ``slot_logits``.

        Each of shape (tokens, hidden size); only the second has been through the last norm.
        """
        _, before, after = self._through(ids, lengths, self.run_prefix())
        return before, self._network.norm(after)

    def slots_of(self, lengths: Sequence[int]) -> list[int]:
        """Where the answers are read in a row of such prompts: all slots of the first, then of the second, …"""
        return [end + offset for end in accumulate(lengths) for offset in self._offsets]

    def label_logits(self, states: Tensor) -> list[Tensor]:
        """From the states at the slots, in the order of ``slots_of``; as ``slot_logits`` gives them."""
        weight, by_slot = self._network.head(), states.unflatten(0, (-1, len(self._offsets)))
        with torch.autocast(states.device.type, enabled=False):  # answers are worth full precision
            return [by_slot[:, slot].float() @ weight[labels].float().T for slot, labels in enumerate(self._labels)]

    def _through(self, ids: Tensor, lengths: Sequence[int], past: Prefix) -> tuple[Rotation, Tensor, Tensor]:
        """As many layers as there are in ``past``: the rotation, and the tokens' states before and after the last."""
        row = self._rows.row(lengths)
        tokens, places = distinct(functional.pad(ids, (0, row.filling)) if row.filling else ids)
        embedded = self._network.embed(tokens)
        before = hidden = spread(embedded, places)
        for number, (layer, kept) in enumerate(zip(self._network.layers, past, strict=False)):
            before = hidden
            if number:
                heads = self._projected(layer, hidden, row)
            else:
                heads = self._heads(spread(layer.project(embedded), places), row.rotation, row.attention)
            hidden = layer.finish(hidden, row.attention.attend(*heads, kept))
        cosines, sines = row.rotation
        return (cosines[: len(ids)], sines[: len(ids)]), before[: len(ids)], hidden[: len(ids)]

    def _at_slots(self, hidden: Tensor, rotation: Rotation, lengths: Sequence[int], past: Past) -> Tensor:
        """The last layer, where answers are read."""
        slots = self._rows.slots(lengths, self._offsets)
        query, key, value = self._heads_at(hidden, slots.queries, rotation, slots.attention)
        attended = slots.attention.attend(query, key, value, past)
        if slots.chosen is not None:
            attended = attended[slots.chosen]
        return self._network.last.finish_at(hidden[slots.tokens], attended)

    def _projected(self, layer: Layer, hidden: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all tokens as ``attend`` takes them.

        Some tokens after others, where one tensor of all would be so large that the system clears its memory each time.
        """
        in_blocks = self._network.last.over_states and self._device.type == "cpu"
        if not in_blocks or 3 * hidden.numel() * hidden.element_size() < LARGE_BLOCK_BYTES:
            return self._heads(layer.project(hidden), row.rotation, row.attention)
        pieces = zip(*(each.split(PIECE) for each in (hidden, *row.rotation)), strict=True)
        made = [self._heads(layer.project(some), (cosines, sines), row.attention) for some, cosines, sines in pieces]
        query, key, value = (torch.cat(each, 1) for each in zip(*made, strict=True))
        return query, key, value

    def _heads(self, projected: Tensor, rotation: Rotation, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as ``attend`` takes them, of all tokens."""
        shape = self._shape
        counts = shape.heads - shape.means, shape.key_heads - shape.means, shape.key_heads
        query, key, value = projected.unflatten(1, (-1, shape.head)).split(counts, 1)
        return (
            rotate(attention.queries(query), rotation),
            rotate(attention.keys(key), rotation),
            attention.values(value),
        )

    def _heads_at(
        self, hidden: Tensor, at: Tensor, rotation: Rotation, attention: Attention
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last layer: queries of some tokens, keys and values, or states, of all."""
        query, key, value = self._network.last.project_at(hidden, at)
        cosines, sines = rotation
        return (
            rotate(attention.queries(query), (cosines[at], sines[at])),
            rotate(attention.keys(key), rotation),
            attention.values(value),
        )


class SlotClassifier(nn.Module):
    """A Phi-3, where it will run, that gives the logits of the label tokens at each slot, and learns."""

    def __init__(self, phi3: "Phi3ForCausalLM", encoder: PromptEncoder) -> None:
        super().__init__()
        self.phi3 = phi3
        self.run = Forward(trained(phi3), encoder)

    def forward(self, ids: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """As ``Forward.slot_logits``; the prompt's fixed beginning is run once, with gradient."""
        return self.run.slot_logits(ids, lengths)


def pack(batch: Sequence[Tokens], device: torch.device) -> tuple[Tensor, list[int]]:
    """What follows the prefix, one behind the other: ids of shape (tokens,), and the tokens of each."""
    tails = [tokens.ids[tokens.body.start :] for tokens in batch]
    ids = torch.from_numpy(np.fromiter(chain.from_iterable(tails), np.int64))
    return moved(ids, device), [len(tail) for tail in tails]
