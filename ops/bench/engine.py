"""How fast the engine is, beside others who run the same weights on the same abstracts: on one thread each, from text.

Every contestant lives in a process of its own, and they take turns, so that a slow minute of the machine meets all of
them alike: what counts is the ratio within a round. Measured is CPU time, which other work on the machine moves less.
"""

import json
import platform
import random
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ...consumer.engine import Tokens
from ...schemas import Abstract
from ..settings import shipped_model
from .contestants import sample_text
from .machine import processor
from .peers import PEERS, Answer

OURS = ("abstream bfloat16", "abstream float32", "abstream int8")
ABSTRACTS = 8  # of a turn: a batch of the pipeline
TURN_SECONDS = 1.0  # at least: a turn of a fast contestant answers them more than once
CEILING_SECONDS = 0.3  # of one product, over and over
# As many words as PubMed's abstracts have: 230 in the mean, a few of them far longer.
MEAN_WORDS, SPREAD, SEED = 5.36, 0.39, 7
SMALL: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
}
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "ctranslate2": "ctranslate2",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "llama_cpp": "llama-cpp-python",
}  # as they are imported, and as they are installed


@dataclass(frozen=True)
class Turn:
    """What one contestant needed for an abstract in one round."""

    cpu_milliseconds: float
    wall_milliseconds: float


def measure(
    names: Collection[str], models: Sequence[str], rounds: int, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        names: who takes part, of ``PEERS``; those that are not installed are named in the result.
        models: of ``nano`` and ``small``.
        rounds: turns of each.
        out: where converted models are kept.
        say: called after each turn.
    """
    lacking = {name: PEERS[name].lacks for name in names if PEERS[name].lacks}
    present = [name for name in names if name not in lacking]
    return {
        "bench": "engine",
        "machine": f"{processor()}, one thread each",
        "python": platform.python_version(),
        "versions": {name: version(name) for module, name in PACKAGES.items() if find_spec(module)},
        "abstracts": ABSTRACTS,
        "rounds": rounds,
        "lacking": lacking,
        "models": {model: _of_model(model, present, rounds, out / model, say) for model in models},
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown: a table for each model."""
    for model, of in found["models"].items():
        ceilings = ", ".join(f"{name} {value:.0f}" for name, value in of["ceiling_gflops"].items())
        yield f"{model}: {of['tokens']:.0f} tokens an abstract; GEMM ceiling in GFLOP/s: {ceilings}"
        yield ""
        yield "| who | CPU ms | abstracts/s | abstream bf16 × | fp32 × | int8 × | of ceiling | peak MiB | off by |"
        yield "|---" * 9 + "|"
        for name, row in of["contestants"].items():
            yield f"| {' | '.join([name, *_cells(row)])} |"
        yield ""
    for name, lacks in found["lacking"].items():
        yield f"Not measured: {name}, since {', '.join(lacks)} is not installed."
    for name, why in ((name, why) for of in found["models"].values() for name, why in of["failed"].items()):
        yield f"Not measured: {name}: {why}"


def _cells(row: dict[str, Any]) -> Iterator[str]:
    milliseconds, ratios = row["median"]["cpu_milliseconds"], row["ours_faster"]
    yield f"{milliseconds:.1f}"
    yield f"{1000 / milliseconds:.2f}"
    yield from (f"{ratios[name]:.2f}" if name in ratios else "" for name in OURS)
    yield f"{100 * row['share_of_ceiling']:.0f} %" if row["share_of_ceiling"] else ""
    yield f"{row['peak_mib']:.0f}"
    yield "" if row["off_by"] is None else f"{row['off_by']:.1e}"


def _of_model(
    model: str,
    names: Sequence[str],
    rounds: int,
    out: Path,
    say: Callable[[str], None],
    place: Callable[[], Executor] = lambda: ProcessPoolExecutor(1, get_context("spawn")),
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    folder, abstracts = model_folder(model, out), example_abstracts(ABSTRACTS)
    turns: dict[str, list[Turn]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        own = {name: stack.enter_context(place()) for name in (*names, "ceiling")}
        answers: dict[str, list[list[float]] | None] = {}
        for name in names:
            try:
                answers[name] = own[name].submit(_start, name, folder, out, abstracts).result()
                turns[name] = []
            except Exception as error:  # noqa: BLE001 - a peer that does not work is told of, and the others go on
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        ceilings: list[dict[str, float]] = []
        for number in range(rounds):
            ceilings.append(own["ceiling"].submit(gemm_ceiling, model).result())
            for name, taken in turns.items():
                taken.append(own[name].submit(_turn, abstracts).result())
                say(f"{model}, round {number + 1} of {rounds}: {name}: {taken[-1].cpu_milliseconds:.1f} ms an abstract")
        peaks = {name: own[name].submit(peak_mib).result() for name in turns}
    ceiling = {name: statistics.median(each[name] for each in ceilings) for name in ceilings[0]}
    tokens, gflop = _work(folder, abstracts)
    ideal = {name: gflop / ceiling[dtype] for name in OURS if (dtype := name.split()[-1]) in ceiling}
    return {
        "tokens": tokens,
        "gflop_each": gflop,
        "ceiling_gflops": ceiling,
        "failed": failed,
        "contestants": {name: _row(name, turns, answers, peaks[name], ideal.get(name)) for name in turns},
    }


def _row(
    name: str, turns: dict[str, list[Turn]], answers: dict[str, Any], peak: float, ideal_seconds: float | None
) -> dict[str, Any]:
    taken = turns[name]
    median = Turn(*map(statistics.median, zip(*(asdict(turn).values() for turn in taken), strict=True)))
    return {
        "turns": [asdict(turn) for turn in taken],
        "median": asdict(median),
        "ours_faster": {ours: _ratio(turns[ours], taken) for ours in OURS if ours in turns and ours != name},
        "share_of_ceiling": ideal_seconds and 1000 * ideal_seconds / median.cpu_milliseconds,
        "peak_mib": peak,
        "off_by": _difference(answers[name], answers.get("abstream float32")),
    }


def _ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(their.cpu_milliseconds / our.cpu_milliseconds for our, their in pairs)


def _difference(some: list[list[float]] | None, others: list[list[float]] | None) -> float | None:
    """The largest difference between two probabilities of the last question's labels."""
    from ...consumer.engine.scoring import softmax

    if not some or not others:
        return None
    rows = zip(some, others, strict=True)
    return max(abs(a - b) for one, two in rows for a, b in zip(softmax(one), softmax(two), strict=True))


_answer: Answer


def _start(name: str, folder: Path, out: Path, abstracts: Sequence[Abstract]) -> list[list[float]] | None:
    """In the contestant's own process: load, and answer once to warm the caches."""
    global _answer
    import torch

    torch.set_num_threads(1)
    _answer = PEERS[name].start(folder, out)
    return _answer(abstracts)


def _turn(abstracts: Sequence[Abstract]) -> Turn:
    begun, cpu, done = time.perf_counter(), time.process_time(), 0
    while not done or time.process_time() - cpu < TURN_SECONDS:
        _answer(abstracts)
        done += len(abstracts)
    return Turn(1e3 * (time.process_time() - cpu) / done, 1e3 * (time.perf_counter() - begun) / done)


def gemm_ceiling(model: str) -> dict[str, float]:
    """What a product of this model's largest weight with 2 048 tokens reaches, in GFLOP/s of CPU time, by dtype."""
    import torch

    from ...consumer.engine.products import product

    torch.set_num_threads(1)
    columns, rows = (256, 1536) if model == "nano" else (SMALL["hidden_size"], 2 * SMALL["intermediate_size"])
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight, tokens = torch.randn(rows, columns).to(dtype), torch.randn(2048, columns).to(dtype)
        multiply, done = product(weight), 0
        with torch.inference_mode():
            multiply(tokens)
            begun = time.process_time()
            while time.process_time() - begun < CEILING_SECONDS:
                multiply(tokens)
                done += 1
        found[str(dtype).removeprefix("torch.")] = 2e-9 * 2048 * rows * columns * done / (time.process_time() - begun)
    return found


def peak_mib() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work(folder: Path, abstracts: Sequence[Abstract]) -> tuple[float, float]:
    """The tokens of an abstract's prompt, and the GFLOP that the engine needs for them."""
    from .peers import encoder_of

    encoder = encoder_of(folder)
    prompts = [encoder.encode(abstract) for abstract in abstracts]
    return statistics.mean(len(tokens.ids) for tokens in prompts), gflop_of(folder, prompts)


def gflop_of(folder: Path, prompts: Sequence[Tokens]) -> float:
    """The mean GFLOP of a prompt beyond its fixed beginning: products and attention, as if all tokens differed."""
    from ...consumer.engine.shape import read_shape

    shape = read_shape(folder)
    inner = json.loads((folder / "config.json").read_text())["intermediate_size"]
    keys = 2 * shape.key_heads * shape.head
    each = shape.hidden * (2 * shape.hidden + keys + 3 * inner)
    total = 0.0
    for tokens in prompts:
        tail, begin = tokens.tail_length, tokens.body.start
        seen = tail * begin + tail * tail / 2
        total += (shape.layers - 1) * (2 * tail * each + 4 * shape.hidden * seen) + 2 * tail * shape.hidden * keys
    return 1e-9 * total / len(prompts)


def model_folder(model: str, out: Path) -> Path:
    """The shipped phi3-nano, or one of random weights with its tokenizer: hidden size 1 024, 12 layers."""
    nano = Path(shipped_model("phi3-nano"))
    if model == "nano":
        return nano
    folder = out / "model"
    if not (folder / "model.safetensors").exists():
        _write_random(folder, nano)
    return folder


def _write_random(folder: Path, like: Path) -> None:
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(SEED)
    config = Phi3Config.from_pretrained(like, **SMALL, num_key_value_heads=SMALL["num_attention_heads"])
    config.dtype = torch.float32
    config.initializer_range = 0.02
    Phi3ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(like / name, folder)


def example_abstracts(number: int) -> list[Abstract]:
    """Abstracts made of the bundled sample's words, with realistic lengths; the same each time."""
    drawn, words = random.Random(SEED), sample_text().split()
    lengths = [min(900, round(drawn.lognormvariate(MEAN_WORDS, SPREAD))) for _ in range(number)]
    begins = [drawn.randrange(len(words) - length) for length in lengths]
    return [
        Abstract(title=" ".join(words[begin : begin + 12]), abstract=" ".join(words[begin + 12 : begin + length]))
        for begin, length in zip(begins, lengths, strict=True)
    ]
