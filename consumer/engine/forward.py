"""The forward pass, the same for serving and for training: every question of every prompt in one go.

The prompt's fixed beginning is run once and its keys and values are shared by all rows. The rows are padded on
the right; attention is causal, so no padding is ever seen. The last layer is run at the slots only, and multiplied by
the rows of the label tokens only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Phi3ForCausalLM

from . import Tokens
from .attention import is_blocked, use_blocked_attention
from .last_layer import states_at
from .tokens import PromptEncoder

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each of shape (1, heads, prefix tokens, head size)."""


class SlotClassifier(nn.Module):
    """A Phi-3, where it will run, that gives the logits of the label tokens at each slot."""

    def __init__(self, phi3: Phi3ForCausalLM, encoder: PromptEncoder) -> None:
        super().__init__()
        use_blocked_attention(phi3, encoder.max_tokens)
        self.phi3 = phi3
        self._prefix_ids = encoder.prefix
        self._offsets = [slot.offset for slot in encoder.slots]
        self._labels = [list(slot.labels) for slot in encoder.slots]

    def run_prefix(self) -> Prefix:
        """The prompt's fixed beginning, once; with gradient where gradients are enabled."""
        cache = DynamicCache(config=self.phi3.config)
        ids = torch.tensor([self._prefix_ids], device=self.phi3.device)
        self.phi3.model(input_ids=ids, past_key_values=cache, use_cache=True)
        layers: Any = cache.layers  # each of a plain attention layer
        return [(layer.keys, layer.values) for layer in layers]

    def hidden_states(self, ids: Tensor, prefix: Prefix | None = None) -> Tensor:
        """The last layer's states.

        Args:
            ids: what follows the prefix, shape (batch, tokens), padded on the right.
            prefix: from ``run_prefix``; run anew where None.

        Returns:
            Shape (batch, tokens, hidden size).
        """
        cache = DynamicCache(config=self.phi3.config)
        for layer, (keys, values) in enumerate(prefix or self.run_prefix()):
            rows = (len(ids), -1, -1, -1)
            cache.update(keys.expand(rows), values.expand(rows), layer)
        hidden: Tensor = self.phi3.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden

    def forward(self, ids: Tensor, lengths: Tensor, prefix: Prefix | None = None) -> list[Tensor]:
        """Label logits for each question, in float32, each of shape (batch, labels).

        Args:
            ids: as ``hidden_states``.
            lengths: the tokens of each row, shape (batch,).
            prefix: as ``hidden_states``.
        """
        if not is_blocked(self.phi3):
            return self.slot_logits(self.hidden_states(ids, prefix), lengths)
        return self._logits(self._slot_states(ids, lengths, prefix or self.run_prefix()))

    def slot_logits(self, hidden: Tensor, lengths: Tensor) -> list[Tensor]:
        """Label logits from ``hidden_states``, as ``forward`` gives them."""
        rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
        return self._logits(hidden[rows, self._slots(lengths)])

    def _slot_states(self, ids: Tensor, lengths: Tensor, prefix: Prefix) -> Tensor:
        """The rows of ``hidden_states`` at the slots, without the others: shape (batch, slots, hidden size)."""
        model, rows = self.phi3.model, (len(ids), -1, -1, -1)
        cache = DynamicCache(config=self.phi3.config)
        past = [(keys.expand(rows), values.expand(rows)) for keys, values in prefix]
        for number, (keys, values) in enumerate(past[:-1]):
            cache.update(keys, values, number)
        hidden = model.embed_tokens(ids)
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0) + len(self._prefix_ids)
        rotation = model.rotary_emb(hidden, position_ids=positions)
        for layer in model.layers[:-1]:
            hidden = layer(hidden, past_key_values=cache, use_cache=True, position_embeddings=rotation)
        states: Tensor = model.norm(states_at(model.layers[-1], hidden, past[-1], rotation, self._slots(lengths)))
        return states

    def _slots(self, lengths: Tensor) -> Tensor:
        """Where the answers are read: shape (batch, slots)."""
        return lengths.unsqueeze(1) + torch.tensor(self._offsets, device=lengths.device)

    def _logits(self, states: Tensor) -> list[Tensor]:
        weight = self.phi3.lm_head.weight
        with torch.autocast(states.device.type, enabled=False):  # answers are worth full precision
            return [states[:, slot].float() @ weight[labels].float().T for slot, labels in enumerate(self._labels)]


def pad(batch: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """What follows the prefix: ids of shape (batch, longest), padded on the right with 0, and the lengths."""
    tails = [torch.tensor(tokens.ids[tokens.body.start :]) for tokens in batch]
    lengths = torch.tensor([len(tail) for tail in tails])
    return nn.utils.rnn.pad_sequence(tails, batch_first=True).to(device), lengths.to(device)
