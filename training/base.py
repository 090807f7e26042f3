"""How the shipped base model ``phi3-nano`` was made: a real Phi-3 architecture, small, trained from nothing.

    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184   # half as fast again: pages are kept
    python -m abstream.training.base --data DATA --out ops/models/phi3-nano --steps 2800

1. a byte-level BPE tokenizer of 8 192 tokens, with Phi-3's chat control tokens;
2. one run over permitted texts (``corpus.py``) in which every example is a prompt of the oncology task: next-token
   loss on the abstract's own text, plus the loss on the answers of a dictionary (``weak_labels.py``).

It follows the prompt and knows what the dictionary knows. No hand-labelled abstract is used but for the
types of ``corpus.TYPED``.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

from ..consumer.engine import Tokens
from ..consumer.engine.tokens import PromptEncoder
from ..schemas import ONCOLOGY, Abstract, Prompt
from ..schemas.prompt import CONTROL_TOKENS
from ..schemas.task import LETTERS
from . import corpus
from .weak_labels import WeakLabels

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"
VOCABULARY = 8_192
MAX_PROMPT_TOKENS = 640  # 95 % of the abstracts whole; the rest is cut, as at serving time
BATCH_TOKENS = 8_192
PEAK_LEARNING_RATE = 2e-3
WARMUP = 0.02  # of the run
LANGUAGE_WEIGHT = 0.5  # beside the answers' loss
LANGUAGE_SHARE = 0.25  # of the abstract's positions: the softmax over the vocabulary costs as much as the model
CANCER_SHARE = 0.5  # of the examples; the corpus has 10 %
TYPED_SHARE = 0.15
NO_TITLE, NO_TEXT = 0.15, 0.05  # of the examples, so that either alone can be answered


@dataclass(frozen=True)
class Example:
    """A tokenized prompt and the index of the right label of each question, or -1 where it is not asked."""

    tokens: Tokens
    answers: tuple[int, ...]


def train_tokenizer(texts: Iterator[str], prompt: Prompt, folder: Path) -> None:
    """Write ``tokenizer.json``: byte-level BPE, single digits, every answer letter a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[UNKNOWN, END_OF_TEXT, *CONTROL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def lines() -> Iterator[str]:
        letters = "".join(f" {letter}" for letter in LETTERS)
        for text in texts:
            yield text
            yield letters
            yield prompt.prefix.split("\n", 1)[1]

    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": UNKNOWN,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")


def new_model(seed: int) -> Phi3ForCausalLM:
    """Phi-3 with 4 layers of width 192: 3.3 million parameters, input and output embeddings tied."""
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    return Phi3ForCausalLM(config)


class Mixture:
    """An endless, seeded stream of examples: half about cancer, some with a curated type, the rest not."""

    def __init__(self, data: Path, encoder: PromptEncoder, seed: int) -> None:
        self._random = random.Random(seed)
        self._encoder = encoder
        label = WeakLabels(data / "lexicon" / "DO_cancer_slim.obo")
        self._cancer: list[tuple[Abstract, dict[str, str]]] = []
        self._rest: list[tuple[Abstract, dict[str, str]]] = []
        for abstract in corpus.texts(data):
            answers = label(abstract)
            (self._cancer if answers["cancer"] == "Cancer" else self._rest).append((abstract, answers))
        self._typed = [(a, {"cancer": "Cancer", "cancer_type": kind}) for a, kind in corpus.typed(data)]

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield self._example(*self._random.choice(self._pool()))

    def _pool(self) -> list[tuple[Abstract, dict[str, str]]]:
        draw = self._random.random()
        if draw < TYPED_SHARE:
            return self._typed
        return self._cancer if draw < CANCER_SHARE else self._rest

    def _example(self, abstract: Abstract, answers: dict[str, str]) -> Example:
        draw = self._random.random()
        if abstract.title and draw < NO_TITLE:
            abstract = abstract.model_copy(update={"title": None})
        elif abstract.title and draw < NO_TITLE + NO_TEXT:
            abstract = abstract.model_copy(update={"abstract": ""})
        chosen = tuple(
            question.labels.index(answers[question.name]) if question.name in answers else -1
            for question in ONCOLOGY.questions
        )
        return Example(self._encoder.encode(abstract), chosen)


def batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Examples of about equal length, ``BATCH_TOKENS`` at a time, from a pool of sixteen batches."""
    while True:
        pool: list[Example] = []
        while sum(len(example.tokens.ids) for example in pool[-512:]) < BATCH_TOKENS or len(pool) < 512:
            pool.append(next(examples))
        pool.sort(key=lambda example: len(example.tokens.ids))
        grouped: list[list[Example]] = [[]]
        for example in pool:
            if len(example.tokens.ids) * (len(grouped[-1]) + 1) > BATCH_TOKENS:
                grouped.append([])
            grouped[-1].append(example)
        random.Random(len(pool)).shuffle(grouped)
        yield from grouped


def loss_of(model: Phi3ForCausalLM, batch: list[Example], encoder: PromptEncoder) -> torch.Tensor:
    """Mean loss of the answers plus ``LANGUAGE_WEIGHT`` times the mean next-token loss of the abstracts' text."""
    width = max(len(example.tokens.ids) for example in batch)
    ids = torch.ones(len(batch), width, dtype=torch.long)
    targets = torch.full((2, len(batch), width), -100)  # language, answers
    for row, example in enumerate(batch):
        length, body = len(example.tokens.ids), example.tokens.body
        ids[row, :length] = torch.tensor(example.tokens.ids)
        read = torch.rand(body.stop - body.start - 1) < LANGUAGE_SHARE
        targets[0, row, body.start : body.stop - 1][read] = ids[row, body.start + 1 : body.stop][read]
        for slot, answer in zip(encoder.slots, example.answers, strict=True):
            if answer >= 0:
                targets[1, row, length + slot.offset] = slot.labels[answer]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state

    def mean_loss(wanted: torch.Tensor) -> torch.Tensor:
        asked = wanted != -100
        return functional.cross_entropy(model.lm_head(hidden[asked]).float(), wanted[asked])

    return mean_loss(targets[1]) + LANGUAGE_WEIGHT * mean_loss(targets[0])


def train(
    model: Phi3ForCausalLM, mixture: Mixture, encoder: PromptEncoder, steps: int, say: Callable[[str], None]
) -> dict[str, float]:
    """AdamW with a linear warm-up and a linear fall; returns what was spent."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    begun, tokens, smooth = time.monotonic(), 0, 0.0
    for step, batch in zip(range(steps), batches(iter(mixture)), strict=False):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(done / WARMUP, (1 - done) / (1 - WARMUP)) + 1e-6
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch, encoder)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += sum(len(example.tokens.ids) for example in batch)
        smooth = 0.98 * smooth + 0.02 * loss.item() if step else loss.item()
        if step % 50 == 49:
            rate = tokens / (time.monotonic() - begun)
            say(f"step {step + 1}  tokens {tokens:,}  loss {smooth:.3f}  {rate:,.0f} tokens/s")
    return {
        "steps": steps,
        "tokens": tokens,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "loss": round(smooth, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretraining/, cancer_types/, lexicon/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    prompt = Prompt(ONCOLOGY)
    sample = (Prompt.body(abstract) for number, abstract in enumerate(corpus.texts(arguments.data)) if number % 4 == 0)
    train_tokenizer(sample, prompt, arguments.out)
    encoder = PromptEncoder(arguments.out, prompt, MAX_PROMPT_TOKENS)
    model = new_model(arguments.seed)
    spent = train(model, Mixture(arguments.data, encoder, arguments.seed), encoder, arguments.steps, print)
    model.bfloat16().save_pretrained(arguments.out)
    print(json.dumps({**spent, "parameters": sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
