"""The contestants of ``abstream bench engine``: each answers abstracts from their text, on one thread.

The engine answers both questions of the task in one pass. ``generate`` and the pipelines write the answers' tokens, as
their users would have them do. CTranslate2, ONNX Runtime and OpenVINO are given less to do than the engine: the same
prompt, one pass, and the last token's logits only. So is llama.cpp (``llama.py``). Who can keep the prompt's fixed
beginning does so.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...consumer.engine import Tokens
from ...consumer.engine.config import Dtype, EngineConfig
from ...consumer.engine.tokens import PromptEncoder
from ...consumer.memory import settle_memory
from ...schemas import ONCOLOGY, Abstract, Prompt
from ..settings import budgets_file

Answer = Callable[[Sequence[Abstract]], list[list[float]] | None]
"""Answers abstracts; gives the logits of the last question's labels where it has them."""


@dataclass(frozen=True)
class Peer:
    """``start`` loads the model of a folder and keeps what it makes of it in another."""

    start: Callable[[Path, Path], Answer]
    needs: tuple[str, ...] = ()

    @property
    def lacks(self) -> list[str]:
        """The packages that are missing for this peer."""
        return [name for name in self.needs if not find_spec(name)]


def engine(folder: Path, _: Path, *, dtype: Dtype) -> Answer:
    """Ours, eight at a time as they come from a stream, in a process set up as a worker's is."""
    from ...consumer.engine.phi3 import Phi3Engine

    settle_memory()
    config = EngineConfig(model=str(folder), device="cpu", dtype=dtype, threads=1, budgets=budgets_file())
    engine = Phi3Engine(config)
    return lambda abstracts: [
        list(each[-1]) for each in engine.classify([engine.encode(abstract) for abstract in abstracts]).logits
    ]


def generate(folder: Path, _: Path, *, dtype: Dtype) -> Answer:
    """transformers, greedily and one by one."""
    import torch
    from transformers import Phi3ForCausalLM

    phi3, encoder = Phi3ForCausalLM.from_pretrained(folder, dtype=dtype).eval(), encoder_of(folder)
    written = _answer_tokens(encoder)

    def answer(abstracts: Sequence[Abstract]) -> None:
        for abstract in abstracts:
            ids = torch.tensor([_asked(encoder.encode(abstract), encoder)])
            plain = torch.ones_like(ids)
            with torch.inference_mode():
                phi3.generate(
                    ids, attention_mask=plain, do_sample=False, max_new_tokens=written, min_new_tokens=written
                )

    return answer


def pipeline(folder: Path, _: Path, *, dtype: Dtype, batch: int) -> Answer:
    """transformers' ``pipeline("text-generation")``."""
    from transformers import pipeline as make

    encoder = encoder_of(folder)
    pipe: Any = make("text-generation", model=str(folder), dtype=dtype, device="cpu")
    pipe.tokenizer.padding_side = "left"
    begin, written = Prompt(ONCOLOGY), _answer_tokens(encoder)
    end = begin.slots[0].text.rpartition("\n")[0] + "\n"

    def answer(abstracts: Sequence[Abstract]) -> None:
        texts = [begin.prefix + begin.body(abstract) + end for abstract in abstracts]
        pipe(texts, batch_size=batch, do_sample=False, max_new_tokens=written, min_new_tokens=written)

    return answer


def ctranslate2(folder: Path, out: Path, *, compute: str) -> Answer:
    """One token for each prompt, one by one; the prompt's fixed beginning is run once, and kept by CTranslate2.

    It does take batches. But of prompts that are not equally long it runs only so many tokens at once as the shortest
    has; the rest of the others follows token by token, as if it were generated, which takes more than three times as
    long, and what stands first among the logits is not the answer's.
    """
    import ctranslate2 as peer

    converted, encoder = out / f"ctranslate2-{compute}", encoder_of(folder)
    if not converted.exists():
        _converter()(str(folder)).convert(str(converted), quantization=compute)
        _fill_in(converted / "config.json")
    generator = peer.Generator(str(converted), device="cpu", compute_type=compute, intra_threads=1, inter_threads=1)
    words = _words(folder)

    beginning = [words[each] for each in encoder.prefix]

    def answer(abstracts: Sequence[Abstract]) -> list[list[float]]:
        tails = [tokens.ids[tokens.body.start :] for tokens in map(encoder.encode, abstracts)]
        results = generator.generate_batch(
            [[words[each] for each in tail] for tail in tails],
            static_prompt=beginning,
            max_batch_size=1,
            max_length=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        return [of_labels(encoder, _plain(result.logits[0][-1])) for result in results]

    return answer


def _fill_in(config: Path) -> None:
    """CTranslate2 cannot read the nulls that its converter writes."""
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"bos_token": "<|endoftext|>", "layer_norm_epsilon": 1e-5}))


def _converter() -> Any:
    """CTranslate2's, told of plain rotary positions as transformers 4 told it."""
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc, unused-ignore]
        def load_model(self, *arguments: Any, **named: Any) -> Any:
            model = super().load_model(*arguments, **named)
            model.config.rope_scaling = None
            for layer in model.model.layers:
                layer.self_attn.rotary_emb = SimpleNamespace(long_factor=None, short_factor=None)
            return model

    return Converter


def onnxruntime(folder: Path, out: Path, *, int8: bool) -> Answer:
    """Exported by torch; int8 by its own dynamic quantization."""
    import onnxruntime as peer

    encoder, options = encoder_of(folder), peer.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = peer.InferenceSession(str(_exported(folder, out, int8=int8)), options, ["CPUExecutionProvider"])

    def run(ids: Any) -> Any:
        return session.run(None, {"ids": ids})[0]

    return partial(_one_by_one, encoder, run)


def openvino(folder: Path, out: Path, *, precision: str) -> Answer:
    """Reads what was exported for ONNX Runtime."""
    import openvino as peer

    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = peer.Core().compile_model(str(_exported(folder, out, int8=False)), "CPU", hints)
    request = compiled.create_infer_request()
    return partial(_one_by_one, encoder_of(folder), lambda ids: request.infer({"ids": ids})[compiled.output(0)])


def llama_cpp(folder: Path, out: Path) -> Answer:
    """llama.cpp in bfloat16."""
    from .llama import start

    return start(folder, out)


def _one_by_one(encoder: PromptEncoder, run: Callable[[Any], Any], abstracts: Sequence[Abstract]) -> list[list[float]]:
    import numpy as np

    prompts = [np.array([encoder.encode(abstract).ids]) for abstract in abstracts]
    return [of_labels(encoder, _plain(run(ids)[0])) for ids in prompts]


def _exported(folder: Path, out: Path, *, int8: bool) -> Path:
    """An ONNX model that takes a prompt and gives the logits of what follows it."""
    whole, quantized = out / "onnx/model.onnx", out / "onnx/int8.onnx"
    if not whole.exists():
        _export(folder, whole)
    if int8 and not quantized.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(whole, quantized, weight_type=QuantType.QInt8, per_channel=True)
    return quantized if int8 else whole


def _export(folder: Path, path: Path) -> None:
    import torch
    from transformers import Phi3ForCausalLM

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi3 = Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.phi3(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            return logits[:, -1]

    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.ones(1, 300, dtype=torch.long),)
    tokens = {"ids": {1: torch.export.Dim("tokens", min=2, max=1023)}}
    program = torch.onnx.export(Last().eval(), example, dynamo=True, input_names=["ids"], dynamic_shapes=tokens)
    assert program
    program.save(str(path), external_data=True)


def encoder_of(folder: Path) -> PromptEncoder:
    return PromptEncoder(folder, Prompt(ONCOLOGY), 1_024)


def _words(folder: Path) -> dict[int, str]:
    from tokenizers import Tokenizer

    return {number: word for word, number in Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().items()}


def _asked(tokens: Tokens, encoder: PromptEncoder) -> tuple[int, ...]:
    """The prompt up to where the answers begin."""
    return tokens.ids[: len(tokens.ids) - _answer_tokens(encoder) + 1]


def _answer_tokens(encoder: PromptEncoder) -> int:
    """Of all answers as the model would write them: ``cancer: A``, a new line, ``cancer_type: B``."""
    names = (
        len(encoder.suffix) + encoder.slots[0].offset
    )  # tokens before the first answer, with <|end|> and <|assistant|>
    return len(encoder.suffix) + 1 - min(names, 4)


def of_labels(encoder: PromptEncoder, logits: Sequence[float]) -> list[float]:
    """The label logits of the last question, from the logits of all tokens."""
    return [float(logits[label]) for label in encoder.slots[-1].labels]


def _plain(values: Any) -> Any:
    import numpy as np

    return np.asarray(values)


TRANSFORMERS, ONNX = ("transformers",), ("onnxscript", "onnx")
PEERS = {
    "abstream bfloat16": Peer(partial(engine, dtype="bfloat16")),
    "abstream float32": Peer(partial(engine, dtype="float32")),
    "abstream int8": Peer(partial(engine, dtype="int8")),
    "generate() float32": Peer(partial(generate, dtype="float32"), TRANSFORMERS),
    "generate() bfloat16": Peer(partial(generate, dtype="bfloat16"), TRANSFORMERS),
    "pipeline of 8 float32": Peer(partial(pipeline, dtype="float32", batch=8), TRANSFORMERS),
    "pipeline of 1 float32": Peer(partial(pipeline, dtype="float32", batch=1), TRANSFORMERS),
    "CTranslate2 float32": Peer(partial(ctranslate2, compute="float32"), ("ctranslate2",)),
    "CTranslate2 int8": Peer(partial(ctranslate2, compute="int8"), ("ctranslate2",)),
    "ONNX Runtime float32": Peer(partial(onnxruntime, int8=False), ("onnxruntime", *ONNX)),
    "ONNX Runtime int8": Peer(partial(onnxruntime, int8=True), ("onnxruntime", *ONNX)),
    "OpenVINO float32": Peer(partial(openvino, precision="f32"), ("openvino", *ONNX)),
    "OpenVINO bfloat16": Peer(partial(openvino, precision="bf16"), ("openvino", *ONNX)),
    "llama.cpp bfloat16": Peer(llama_cpp, ("llama_cpp", "gguf")),
}
