"""llama.cpp as a peer of the engine, and the file that it reads: GGUF, in bfloat16 as the engine's faster rows are.

The file has no tokenizer, since llama.cpp is given token ids. As with the engine, the prompt's fixed beginning is run
once, and its keys and values stay; of what follows, the logits behind the last token are read.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...schemas import Abstract
from .peers import Answer, encoder_of, of_labels

MOST_TOKENS = 1_024
# As llama.cpp's own converter names them; rows of queries and keys stay in their order for this architecture.
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def start(folder: Path, out: Path) -> Answer:
    """One by one: on one thread a batch gains nothing."""
    import llama_cpp
    import numpy as np

    path = out / "llama" / "bf16.gguf"
    if not path.exists():
        write_gguf(folder, path)
    run, encoder = _runner(path), encoder_of(folder)
    run.eval(encoder.prefix)

    def logits(tail: Sequence[int]) -> Any:
        run.n_tokens = len(encoder.prefix)  # what follows is forgotten
        run.eval(tail)
        found = llama_cpp.llama_get_logits_ith(run.ctx, -1)
        return np.ctypeslib.as_array(found, shape=(run.n_vocab(),))

    def answer(abstracts: Sequence[Abstract]) -> list[list[float]]:
        tails = [tokens.ids[tokens.body.start :] for tokens in map(encoder.encode, abstracts)]
        return [of_labels(encoder, logits(tail)) for tail in tails]

    return answer


def _runner(path: Path) -> Any:
    """With flash attention, which is faster here than without."""
    from llama_cpp import Llama

    sizes: dict[str, Any] = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), MOST_TOKENS)
    return Llama(str(path), **sizes, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)


def write_gguf(folder: Path, path: Path) -> None:
    """A Phi-3 of plain rotary positions as a GGUF file: matrices in bfloat16, the rest in float32.

    Args:
        folder: of the model, with ``config.json`` and safetensors.
        path: of the file.
    """
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter
    from safetensors.torch import load_file

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "phi3")
    for write, value in _described(writer, json.loads((folder / "config.json").read_text())):
        write(value)
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if tensor.dim() == 1:
                writer.add_tensor(gguf_name(name), tensor.float().numpy())
            else:
                numbers = tensor.bfloat16().view(torch.uint8).numpy()
                writer.add_tensor(gguf_name(name), numbers, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """llama.cpp's name for a tensor that transformers calls ``name``."""
    part = name.removesuffix(".weight")
    if not part.startswith("model.layers."):
        return f"{_NAMES[part]}.weight"
    number, _, part = part.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_NAMES[part]}.weight"


def _described(writer: Any, config: dict[str, Any]) -> list[tuple[Callable[[Any], None], Any]]:
    heads, hidden, longest = (
        config[name] for name in ("num_attention_heads", "hidden_size", "max_position_embeddings")
    )
    positions = config.get("rope_parameters") or {}
    return [
        (writer.add_context_length, longest),
        (writer.add_rope_scaling_orig_ctx_len, config.get("original_max_position_embeddings", longest)),
        (writer.add_embedding_length, hidden),
        (writer.add_feed_forward_length, config["intermediate_size"]),
        (writer.add_block_count, config["num_hidden_layers"]),
        (writer.add_head_count, heads),
        (writer.add_head_count_kv, config.get("num_key_value_heads") or heads),
        (writer.add_layer_norm_rms_eps, config["rms_norm_eps"]),
        (writer.add_rope_dimension_count, hidden // heads),
        (writer.add_rope_freq_base, positions.get("rope_theta", 10_000.0)),
        (writer.add_sliding_window, config.get("sliding_window") or 0),
        (writer.add_vocab_size, config["vocab_size"]),
        (writer.add_tokenizer_model, "none"),
    ]
