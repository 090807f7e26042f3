"""The forward pass, the same for serving and for training: all questions of all prompts in one pass.

Prompts are packed into one row of tokens without padding, and each attends to itself alone. Their common beginning,
the prefix, is run once, and its keys and values precede those of each prompt. The last layer is computed only at the
slots, the tokens whose next token is an answer, and multiplied only with the output head's rows of the label tokens.
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
from .norms import rms_norm
from .parts import Parts
from .rotary import Rotation, cosines_and_sines, rotate
from .rows import Attention, Row, Rows
from .shape import Shape, shape_of
from .tokens import PromptEncoder
from .varlen import moved, varlen_works

if TYPE_CHECKING:
    from transformers import Phi3ForCausalLM

Prefix = list[Past]
"""The KV cache of the prefix: one entry for each layer."""


@dataclass(frozen=True)
class Network:
    """The modules of a forward pass.

    Attributes:
        embed: from token ids to embeddings.
        layers: all of them, the last included.
        last: the last layer, which can also be computed at the slots only.
        norm: the norm after the last layer.
        head: returns the weight of the output head, shape (vocabulary, hidden size).
    """

    shape: Shape
    embed: Callable[[Tensor], Tensor]
    layers: Sequence[Layer]
    last: LastLayer
    norm: Callable[[Tensor], Tensor]
    head: Callable[[], Tensor]


def served(parts: Parts, shape: Shape) -> Network:
    """A network over bare weights, named as in transformers' checkpoints; without gradient."""
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
        lambda rows: rms_norm(rows, norm, shape.epsilon),
        lambda: head,
    )


def trained(phi3: "Phi3ForCausalLM") -> Network:
    """A network over a model whose weights, or the LoRA layers in it, are trained."""
    shape = shape_of(phi3.config.to_dict())
    if phi3.device.type == "cpu":
        shape = replace(shape, means=mean_heads(map(_joint, phi3.model.layers), shape))
    layers = [TrainedLayer(layer, shape) for layer in phi3.model.layers]
    return Network(shape, phi3.model.embed_tokens, layers, layers[-1], phi3.model.norm, lambda: phi3.lm_head.weight)


def _joint(layer: Any) -> list[Tensor]:
    """What projects to queries, keys and values in one layer: the weight and, with LoRA, the B matrices."""
    module = layer.self_attn.qkv_proj
    if not hasattr(module, "lora_B"):
        return [module.weight]
    return [module.base_layer.weight, *(up.weight for up in module.lora_B.values())]


class Forward:
    """Runs a network over the prompts of one encoder, on the device of the network's weights."""

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
        """Run the prefix and return its KV cache; differentiable where gradients are enabled."""
        row = self._rows.beginning()
        hidden = self._network.embed(self._prefix_ids)
        kept: Prefix = []
        for layer in self._network.layers[:-1]:
            query, key, value = self._projected(layer, hidden, row)
            kept.append((key, value))
            hidden = layer.finish(hidden, row.attention.attend(query, key, value))
        anywhere = self._prefix_ids.new_zeros(1)  # the prefix has no slots, and this query is dropped
        _, key, value = self._heads_at(hidden, anywhere, row.rotation, row.attention)
        return [*kept, (key, value)]

    def slot_logits(self, ids: Tensor, lengths: Sequence[int], prefix: Prefix | None = None) -> list[Tensor]:
        """The label logits of each question, in float32, each of shape (prompts, labels).

        Args:
            ids: the packed prompts without their prefix, shape (tokens,).
            lengths: the number of tokens of each prompt.
            prefix: from ``run_prefix``; run anew where None.
        """
        past = prefix or self.run_prefix()
        rotation, _, hidden = self._through(ids, lengths, past[:-1])
        states = self._at_slots(hidden, rotation, lengths, past[-1])
        return self.label_logits(self._network.norm(states))

    def all_states(self, ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The hidden states of every token before the last layer and after it; arguments as for ``slot_logits``.

        Both have shape (tokens, hidden size). Only the second has been through the final norm.
        """
        _, before, after = self._through(ids, lengths, self.run_prefix())
        return before, self._network.norm(after)

    def slots_of(self, lengths: Sequence[int]) -> list[int]:
        """The index of each slot in a row of such prompts: all slots of the first prompt, then of the second, …"""
        return [end + offset for end in accumulate(lengths) for offset in self._offsets]

    def label_logits(self, states: Tensor) -> list[Tensor]:
        """As ``slot_logits``, from the normed hidden states at the slots, in the order of ``slots_of``."""
        weight, by_slot = self._network.head(), states.unflatten(0, (-1, len(self._offsets)))
        with torch.autocast(states.device.type, enabled=False):  # answers are computed in full precision
            return [by_slot[:, slot].float() @ weight[labels].float().T for slot, labels in enumerate(self._labels)]

    def _through(self, ids: Tensor, lengths: Sequence[int], past: Prefix) -> tuple[Rotation, Tensor, Tensor]:
        """Run as many layers as ``past`` has: the rotation, and the hidden states before and after the last of them."""
        row = self._rows.row(lengths)
        tokens, places = distinct(functional.pad(ids, (0, row.padding)) if row.padding else ids)
        embedded = self._network.embed(tokens)
        before = hidden = spread(embedded, places)
        for number, (layer, kept) in enumerate(zip(self._network.layers, past, strict=False)):
            before = hidden
            if number:
                heads = self._projected(layer, hidden, row)
            else:  # what the first layer projects depends on the token alone
                heads = self._heads(spread(layer.project(embedded), places), row.rotation, row.attention)
            hidden = layer.finish(hidden, row.attention.attend(*heads, kept))
        cosines, sines = row.rotation
        return (cosines[: len(ids)], sines[: len(ids)]), before[: len(ids)], hidden[: len(ids)]

    def _at_slots(self, hidden: Tensor, rotation: Rotation, lengths: Sequence[int], past: Past) -> Tensor:
        """The last layer's output at the slots."""
        slots = self._rows.slots(lengths, self._offsets)
        query, key, value = self._heads_at(hidden, slots.queries, rotation, slots.attention)
        attended = slots.attention.attend(query, key, value, past)
        if slots.chosen is not None:
            attended = attended[slots.chosen]
        return self._network.last.finish_at(hidden[slots.tokens], attended)

    def _projected(self, layer: Layer, hidden: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all tokens as ``attend`` takes them.

        They are made in pieces where the whole would exceed ``LARGE_BLOCK_BYTES``: such a block goes back to the system
        when it is freed, which clears its memory for each new one.
        """
        in_blocks = self._network.last.over_states and self._device.type == "cpu"
        if not in_blocks or 3 * hidden.numel() * hidden.element_size() < LARGE_BLOCK_BYTES:
            return self._heads(layer.project(hidden), row.rotation, row.attention)
        pieces = zip(*(each.split(PIECE) for each in (hidden, *row.rotation)), strict=True)
        made = [self._heads(layer.project(some), (cosines, sines), row.attention) for some, cosines, sines in pieces]
        query, key, value = (torch.cat(each, 1) for each in zip(*made, strict=True))
        return query, key, value

    def _heads(self, projected: Tensor, rotation: Rotation, attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as ``attend`` takes them, from the joint projection of all tokens."""
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
        """In the last layer: queries of the tokens ``at``; keys and values, or states in their place, of all tokens."""
        query, key, value = self._network.last.project_at(hidden, at)
        cosines, sines = rotation
        return (
            rotate(attention.queries(query), (cosines[at], sines[at])),
            rotate(attention.keys(key), rotation),
            attention.values(value),
        )


class SlotClassifier(nn.Module):
    """A trainable Phi-3, already on its device, that returns the label logits of each question."""

    def __init__(self, phi3: "Phi3ForCausalLM", encoder: PromptEncoder) -> None:
        super().__init__()
        self.phi3 = phi3
        self.run = Forward(trained(phi3), encoder)

    def forward(self, ids: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """As ``Forward.slot_logits``; the prefix is run once for all prompts, with gradient."""
        return self.run.slot_logits(ids, lengths)


def pack(batch: Sequence[Tokens], device: torch.device) -> tuple[Tensor, list[int]]:
    """Pack prompts without their prefix: the ids, shape (tokens,), and the number of tokens of each prompt."""
    tails = [tokens.ids[tokens.body.start :] for tokens in batch]
    ids = torch.from_numpy(np.fromiter(chain.from_iterable(tails), np.int64))
    return moved(ids, device), [len(tail) for tail in tails]
