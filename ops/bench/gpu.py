"""All that is said of a GPU, measured in one run: ``ops/bench/gpu.sh``, at most eight minutes on an H200.

The model has the form of Phi-3-mini-4k and random weights; abstracts have the lengths of real ones in tokens. Each part
runs in a process of its own, whose memory the next one finds free. A part that fails is told of, and the rest goes on.
``--dry-run`` runs all of it on a CPU with a model of a few thousand weights: its figures mean nothing.
"""

import asyncio
import math
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...schemas import ONCOLOGY, Abstract, AbstreamError
from .contestants import sample_text
from .engine import gflop_of
from .machine import machine

if TYPE_CHECKING:
    import torch

    from ...consumer.engine.config import Dtype
    from ...consumer.engine.phi3 import Phi3Engine
    from .random_phi3 import Form

Found = dict[str, Any]
WARM_UPS = 2
LONGEST = 1_870  # tokens of an abstract, as of real ones by the real vocabulary
TOKENS_A_WORD = 1.67  # of the bundled sample, by phi3-nano's tokenizer
SPREAD = 0.39  # of the logarithm of a length


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        hidden, inner, layers, heads, vocabulary: of the model.
        abstract_tokens: of an abstract in the mean.
        pack_tokens: of a forward pass, and of a training step.
        passes: timed ones of each engine.
        streamed: abstracts from stream to stream.
        trained: abstracts to learn from, once.
        product_rows: of the products whose speed is the ceiling.
    """

    device: Literal["cuda", "cpu"]
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    abstract_tokens: int
    pack_tokens: int
    passes: int
    streamed: int
    trained: int
    product_rows: int

    @property
    def form(self) -> "Form":
        from .random_phi3 import Form

        return Form(self.hidden, self.inner, self.layers, self.heads, self.vocabulary)


PHI3_MINI = Plan("cuda", 3_072, 8_192, 32, 32, 32_064, 468, 16_384, 12, 4_000, 256, 16_384)
DRY_RUN = Plan("cpu", 64, 128, 2, 2, 12_288, 60, 1_024, 2, 24, 16, 64)


def measure(
    plan: Plan,
    out: Path,
    say: Callable[[str], None],
    place: Callable[[], Executor] = lambda: ProcessPoolExecutor(1, get_context("spawn")),
) -> Found:
    """Run everything, and return the results as plain data.

    Args:
        plan: ``PHI3_MINI`` or ``DRY_RUN``.
        out: where the model, and the workers' logs, are kept.
        say: called after each part.
        place: where a part runs.

    Raises:
        AbstreamError: there is no GPU.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: Found = {"bench": "gpu", "python": platform.python_version(), "torch": version("torch"), "failed": {}}
    for name, part in PARTS.items():
        begun = time.perf_counter()
        with place() as process:
            try:
                found |= process.submit(part, plan, out).result()
            except Exception as error:
                if name == "model":
                    raise
                found["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
        say(f"{name}: {found['failed'].get(name, 'done')}, {time.perf_counter() - begun:.0f} s")
    return found | _shares(found)


def _shares(found: Found) -> Found:
    """The share of the ceiling that the necessary products and attention reach: all else computed is waste."""
    teraflops: dict[str, float] = {
        name: found[name] * found["gflop_each"] / 1e3 for name in ("engine_bfloat16", "streamed") if name in found
    }
    if "trained_gflops" in found:
        teraflops["trained"] = found["trained_gflops"] / 1e3
    limit = found.get("ceiling_bfloat16")
    return {f"share_{name.removeprefix('engine_')}": each / limit for name, each in teraflops.items()} if limit else {}


def table(found: Found) -> Iterator[str]:
    """The results as Markdown, each beside its target."""
    yield f"{found['device']}, torch {found['torch']}, {found['tokens']:.0f} tokens a prompt"
    yield ""
    yield "| what | measured | target |"
    yield "|---|---|---|"
    for name, (what, shape, wanted) in ROWS.items():
        if name in found:
            yield f"| {what} | {shape.format(found[name])} | {wanted} |"
    yield ""
    for name, why in found["failed"].items():
        yield f"Not measured: {name}: {why}"


ROWS = {
    "ceiling_bfloat16": ("ceiling of products, bfloat16, TFLOP/s", "{:.0f}", ""),
    "ceiling_fp8": ("ceiling of products, FP8, TFLOP/s", "{:.0f}", ""),
    "engine_bfloat16": ("engine alone, bfloat16, abstracts/s", "{:.1f}", ""),
    "share_bfloat16": ("its share of the ceiling", "{:.1%}", ""),
    "engine_fp8": ("engine alone, FP8, abstracts/s", "{:.1f}", ""),
    "fp8_to_bfloat16": ("FP8 to bfloat16, of a round", "{:.2f}", "1.35"),
    "streamed": ("stream to stream, bfloat16, abstracts/s", "{:.1f}", "156"),
    "share_streamed": ("its share of the ceiling", "{:.1%}", "70 %"),
    "idle": ("share of the time in which no batch computes", "{:.1%}", "under 3 %"),
    "switch_load_seconds": ("to load an adapter meanwhile, s", "{:.2f}", ""),
    "switch_pause": ("longest batch at a switch, less the median, in batches", "{:.2f}", "at most 1"),
    "trained": ("LoRA training, abstracts/s", "{:.1f}", ""),
    "share_trained": ("its share of the ceiling", "{:.1%}", "50 %"),
    "trained_peak_gib": ("its peak memory, GiB", "{:.1f}", ""),
}


def model(plan: Plan, out: Path) -> Found:
    """Write the model, and say what everything runs on."""
    import torch

    from ...consumer.engine.merging import Base
    from .random_phi3 import write

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise AbstreamError("this benchmark needs a CUDA GPU: --dry-run runs all of it, tiny, on the CPU")
    folder = write(plan.form, out, torch.device(plan.device))
    encoder = Base(_config(plan, out, "bfloat16")).encoder(ONCOLOGY)
    prompts = [encoder.encode(abstract) for abstract in abstracts(plan, 256)]
    return {
        "device": torch.cuda.get_device_name() if plan.device == "cuda" else machine(),
        "tokens": statistics.mean(len(one.ids) for one in prompts),
        "gflop_each": gflop_of(folder, prompts),
    }


def ceiling(plan: Plan, _: Path) -> Found:
    """The fastest of the model's own products, in TFLOP/s."""
    import torch

    from ...consumer.engine.fp8 import fp8_works
    from ...consumer.engine.products import product

    device, found = torch.device(plan.device), {}
    makers: dict[str, Any] = {"bfloat16": product} | ({"fp8": _bare_fp8} if fp8_works(device) else {})
    for name, make in makers.items():
        rates = []
        for rows, columns in plan.form.weights.values():
            weight, tokens = (
                torch.randn(size, columns, device=device, dtype=torch.bfloat16) for size in (rows, plan.product_rows)
            )
            with torch.inference_mode():
                seconds = _seconds(partial(make(weight), tokens), 20, device)
            rates.append(2e-12 * rows * columns * plan.product_rows / seconds)
        found[f"ceiling_{name}"] = max(rates)
    return found


def _bare_fp8(weight: "torch.Tensor") -> Callable[["torch.Tensor"], Any]:
    """The product alone, with tokens quantized beforehand."""
    from ...consumer.engine.fp8 import Scaled, quantized

    multiply = Scaled(weight)
    held: list[tuple[torch.Tensor, torch.Tensor]] = []

    def call(tokens: "torch.Tensor") -> "torch.Tensor":
        if not held:
            held.append(quantized(tokens))
        return multiply.of_quantized(*held[0])

    return call


def engine(plan: Plan, out: Path) -> Found:
    """bfloat16 and FP8 in turn, over the same abstracts, and by how much they differ."""
    import torch

    from ...consumer.engine.fp8 import fp8_works

    names: list[Dtype] = ["bfloat16"]
    if fp8_works(torch.device(plan.device)):
        names.append("fp8")
    engines = {name: _engine(plan, out, name) for name in names}
    packs = [_pack(plan, engines["bfloat16"], number) for number in range(plan.passes)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for each in engines.values():
        for _ in range(WARM_UPS):
            each.classify(packs[0])
    for pack in packs:
        for name, each in engines.items():
            begun = time.perf_counter()
            each.classify(pack)
            seconds[name].append(time.perf_counter() - begun)
    answered = sum(map(len, packs))
    found: Found = {f"engine_{name}": answered / sum(taken) for name, taken in seconds.items()}
    if "fp8" in seconds:
        pairs = zip(seconds["bfloat16"], seconds["fp8"], strict=True)
        found["fp8_to_bfloat16"] = statistics.median(one / other for one, other in pairs)
    return found


def stream(plan: Plan, out: Path) -> Found:
    """A real ``abstream work`` on a Redis of its own."""
    turn = asyncio.run(_streamed(plan, out))
    return {"streamed": turn.per_second, "idle": turn.waits}


async def _streamed(plan: Plan, out: Path) -> Any:
    from ...producer.connection import connect
    from ..chaos.workers import Workers
    from ..embedded import embedded_redis
    from .worker import answered

    flags = {
        "engine": "torch",
        "model": _folder(out),
        "adapter": "none",
        "device": plan.device,
        "dtype": "bfloat16",
        "max-batch-tokens": plan.pack_tokens,
    }
    texts = abstracts(plan, 512)
    with embedded_redis() as url:
        async with connect(url) as redis, Workers(url, 1, flags, out / "worker", random.Random(1)) as workers:
            await answered(redis, workers.ready(), max(10, plan.streamed // 10), texts)
            turn = await answered(redis, workers.ready(), plan.streamed, texts)
    return turn


def switch(plan: Plan, out: Path) -> Found:
    """An adapter is loaded by another thread while batches are computed, and then takes over."""
    from ...consumer.engine.phi3 import Phi3Engine
    from .random_phi3 import adapter_for

    serving = _engine(plan, out, "bfloat16")
    adapter = adapter_for(plan.form, serving.base.folder, out / "adapter")
    pack = _pack(plan, serving, 0)
    loaded: list[Phi3Engine] = []

    def load() -> None:
        loaded.append(Phi3Engine(_config(plan, out, "bfloat16"), adapter=adapter, base=serving.base))

    usual = _batches(lambda: serving, pack, lambda done: done < plan.passes)
    loading, began = threading.Thread(target=load), time.perf_counter()
    loading.start()
    during = _batches(lambda: serving, pack, lambda _: loading.is_alive())
    seconds = time.perf_counter() - began
    loading.join()
    if not loaded:
        raise AbstreamError("the adapter was not loaded: see above")
    during += _batches(lambda: loaded[0], pack, lambda done: done < plan.passes)
    median = statistics.median(usual)
    return {"switch_load_seconds": seconds, "switch_pause": max(0.0, max(during) - median) / median}


def _batches(engine: Callable[[], "Phi3Engine"], pack: Sequence[Any], go_on: Callable[[int], bool]) -> list[float]:
    """Seconds of each batch, from one's end to the next one's."""
    ends = [time.perf_counter()]
    while len(ends) == 1 or go_on(len(ends) - 1):
        engine().classify(pack)
        ends.append(time.perf_counter())
    return [end - begun for begun, end in pairwise(ends)]


def train(plan: Plan, out: Path) -> Found:
    """LoRA on every linear layer, by the recipe's own steps."""
    import torch

    from ...consumer.engine.weights import locate
    from ...training.config import PHI3_LINEAR, TrainConfig
    from ...training.data import Labelled
    from ...training.objective import batches, example
    from ...training.recipe import Run, Splits

    answers = {"cancer": "Cancer", "cancer_type": ONCOLOGY.questions[1].labels[0]}
    records = [Labelled(str(number), one, answers) for number, one in enumerate(abstracts(plan, plan.trained))]
    knobs = {"data": "", "device": plan.device, "precision": "bfloat16", "target_modules": PHI3_LINEAR}
    splits = Splits(ONCOLOGY, frozenset(answers), records, records[:1])
    run = Run(TrainConfig.model_validate(knobs), splits, locate(str(_folder(out))), out, lambda _: None)
    run.classifier.train()
    examples = [example(run.encoder, ONCOLOGY, one.abstract, one.answers) for one in records]
    steps = list(batches(examples, plan.pack_tokens))
    run.step([steps[-1]], 0.5)
    begun = time.perf_counter()
    for batch in steps:
        run.step([batch], 0.5)
    seconds = time.perf_counter() - begun
    weights = plan.layers * sum(map(math.prod, plan.form.weights.values()))
    beginning = 2e-9 * len(run.encoder.prefix) * weights * len(steps)
    forward = gflop_of(_folder(out), [one.tokens for one in examples]) * len(records) + beginning
    # Forward, and backward to the states: the base learns nothing. What LoRA adds is not counted.
    found: Found = {"trained": len(records) / seconds, "trained_gflops": 2 * forward / seconds}
    if plan.device == "cuda":
        found["trained_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def abstracts(plan: Plan, number: int) -> list[Abstract]:
    """Abstracts made of the bundled sample's words, with realistic lengths in tokens; the same each time."""
    drawn, words = random.Random(7), sample_text().split()
    mean = math.log(plan.abstract_tokens) - SPREAD**2 / 2
    lengths = [round(min(LONGEST, drawn.lognormvariate(mean, SPREAD)) / TOKENS_A_WORD) for _ in range(number)]
    begins = [drawn.randrange(max(1, len(words) - length)) for length in lengths]
    return [
        Abstract(title=None, abstract=" ".join(words[begin : begin + length]) or "None.")
        for begin, length in zip(begins, lengths, strict=True)
    ]


def _folder(out: Path) -> Path:
    from .random_phi3 import REVISION

    return out / "snapshots" / REVISION


def _config(plan: Plan, out: Path, dtype: "Dtype") -> Any:
    from ...consumer.engine.config import EngineConfig

    return EngineConfig(model=str(_folder(out)), device=plan.device, dtype=dtype)


def _engine(plan: Plan, out: Path, dtype: "Dtype") -> "Phi3Engine":
    from ...consumer.engine.phi3 import Phi3Engine

    return Phi3Engine(_config(plan, out, dtype))


def _pack(plan: Plan, engine: "Phi3Engine", number: int) -> list[Any]:
    """Prompts of mixed lengths that fill one forward pass."""
    pack: list[Any] = []
    left = plan.pack_tokens
    prompts = [engine.encode(one) for one in abstracts(plan, 512)]
    for tokens in random.Random(number).sample(prompts, len(prompts)):
        if tokens.tail_length > left:
            break
        pack.append(tokens)
        left -= tokens.tail_length
    return pack


def _seconds(call: Callable[[], object], times: int, device: "torch.device") -> float:
    import torch

    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    run(WARM_UPS)
    return run(times) / times


PARTS = {"model": model, "ceiling": ceiling, "engine": engine, "stream": stream, "switch": switch, "train": train}
