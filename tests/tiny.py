"""A Phi-3 with random weights and the shipped tokenizer, small enough to be trained or loaded in a moment."""

import json
import shutil
from pathlib import Path


def tiny_phi3(folder: Path, phi3_nano: Path) -> Path:
    """Write a tiny Phi-3 into ``folder``, and return the folder."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    vocabulary = json.loads((phi3_nano / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    shape = Phi3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # so large that the texts make a difference
        pad_token_id=1,
        bos_token_id=1,
        eos_token_id=1,
    )
    Phi3ForCausalLM(shape).save_pretrained(folder)
    shutil.copy(phi3_nano / "tokenizer.json", folder)
    return folder
