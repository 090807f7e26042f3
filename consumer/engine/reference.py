"""Plain transformers, which every faster path is tested against: one prompt, the logits of all tokens, no shortcuts."""

import torch
from transformers import Phi3ForCausalLM

from . import LabelLogits, Tokens
from .tokens import PromptEncoder


@torch.inference_mode()
def reference_logits(phi3: Phi3ForCausalLM, encoder: PromptEncoder, tokens: Tokens) -> LabelLogits:
    """The label logits of every question for one prompt, from the output of ``Phi3ForCausalLM`` itself."""
    ids = torch.tensor([tokens.ids], device=phi3.device)
    served_with = phi3.config._attn_implementation
    phi3.set_attn_implementation("eager")
    logits = phi3(input_ids=ids, use_cache=False).logits[0].float()
    phi3.set_attn_implementation(served_with)
    return tuple(tuple(logits[slot.offset, list(slot.labels)].tolist()) for slot in encoder.slots)
