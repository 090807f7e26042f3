"""How the shipped base model ``phi3-nano`` was made: a real Phi-3 architecture, small, trained from nothing.

    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184   # half as fast again: pages are kept
    python -m abstream.training.base --data DATA --out ops/models/phi3-nano --steps 3600

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
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

from ..consumer.engine import Tokens
from ..consumer.engine.forward import SlotClassifier, pad
from ..consumer.engine.packing import pack_by
from ..consumer.engine.tokens import PromptEncoder
from ..schemas import ONCOLOGY, Abstract, Prompt
from ..schemas.prompt import CONTROL_TOKENS
from ..schemas.task import LETTERS
from . import corpus
from .weak_labels import WeakLabels, names_cancer

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"
VOCABULARY = 8_192
MAX_PROMPT_TOKENS = 640  # 95 % of the abstracts whole; the rest is cut, as at serving time
SHORT_WORDS = 130  # most examples are cut here: twice as many in the same time
SHORT_SHARE = 0.85
POOL = 1_024  # examples that are sorted by length together
BATCH_TOKENS = 8_192  # beyond the prefix, which is run once a step
PEAK_LEARNING_RATE = 2e-3
WARMUP = 0.02  # of the run
LANGUAGE_WEIGHT = 0.5  # beside the answers' loss at the start; falls to nothing at the end
LANGUAGE_SHARE = 0.125  # of the abstract's positions: the softmax over the vocabulary costs as much as the model
TYPED_SHARE, NAMED_SHARE = 0.2, 0.4  # of the examples: with a curated type; naming cancer at all (10 % of the corpus)
NO_TITLE, NO_TEXT = 0.25, 0.1  # of the examples, so that either alone can be answered


@dataclass(frozen=True)
class Example:
    """A tokenized prompt and the index of the right label of each question, or -1 where it is not asked."""

    tokens: Tokens
    answers: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens beyond the prefix."""
        return len(self.tokens.ids) - self.tokens.body.start


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
    """An endless, seeded stream of examples: some with a curated type, some that name cancer, the rest not."""

    def __init__(self, data: Path, encoder: PromptEncoder, seed: int) -> None:
        self._random = random.Random(seed)
        self._encoder = encoder
        self._label = WeakLabels(data / "lexicon" / "DO_cancer_slim.obo")
        self._named: list[tuple[Abstract, str | None]] = []
        self._rest: list[tuple[Abstract, str | None]] = []
        for abstract in corpus.texts(data):
            (self._named if names_cancer(Prompt.body(abstract)) else self._rest).append((abstract, None))
        self._typed: list[tuple[Abstract, str | None]] = [*corpus.typed(data)]

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield self._example(*self._random.choice(self._pool()))

    def _pool(self) -> list[tuple[Abstract, str | None]]:
        draw = self._random.random()
        if draw < TYPED_SHARE:
            return self._typed
        return self._named if draw < TYPED_SHARE + NAMED_SHARE else self._rest

    def _example(self, abstract: Abstract, curated: str | None) -> Example:
        """The rules judge what is left to see, a curator's type stands whatever is left."""
        visible = self._visible(abstract)
        answers = {"cancer": "Cancer", "cancer_type": curated} if curated else self._label(visible)
        chosen = tuple(
            question.labels.index(answers[question.name]) if question.name in answers else -1
            for question in ONCOLOGY.questions
        )
        return Example(self._encoder.encode(visible), chosen)

    def _visible(self, abstract: Abstract) -> Abstract:
        draw, text = self._random.random(), abstract.abstract
        if self._random.random() < SHORT_SHARE:
            text = " ".join(text.split(" ", SHORT_WORDS)[:SHORT_WORDS])
        if abstract.title and draw < NO_TITLE:
            return Abstract(abstract=text)
        if abstract.title and draw < NO_TITLE + NO_TEXT:
            return Abstract(title=abstract.title, abstract="")
        return Abstract(title=abstract.title, abstract=text)


def batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Examples of like length, ``BATCH_TOKENS`` at a time, from a pool of ``POOL``; in random order."""
    shuffled = random.Random(POOL)
    while True:
        grouped = list(pack_by(islice(examples, POOL), lambda example: example.length, BATCH_TOKENS))
        shuffled.shuffle(grouped)
        yield from grouped


def loss_of(
    classifier: SlotClassifier, batch: list[Example], encoder: PromptEncoder, language_weight: float
) -> torch.Tensor:
    """The mean loss of each question's answers, plus ``language_weight`` times that of the abstracts' next tokens."""
    ids, lengths = pad([example.tokens for example in batch], torch.device("cpu"))
    answers = torch.tensor([example.answers for example in batch])
    hidden = classifier.hidden_states(ids)
    losses = [
        functional.cross_entropy(logits, answers[:, question], ignore_index=-1)
        for question, logits in enumerate(classifier.slot_logits(hidden, lengths))
        if (answers[:, question] >= 0).any()
    ]
    in_body = torch.arange(ids.shape[1] - 1) < (lengths - len(encoder.suffix) - 1).unsqueeze(1)
    read = in_body & (torch.rand(in_body.shape) < LANGUAGE_SHARE)
    if read.any():
        logits = classifier.phi3.lm_head(hidden[:, :-1][read]).float()
        losses.append(language_weight * functional.cross_entropy(logits, ids[:, 1:][read]))
    return torch.stack(losses).sum()


def train(
    model: Phi3ForCausalLM, mixture: Mixture, encoder: PromptEncoder, steps: int, say: Callable[[str], None]
) -> dict[str, float]:
    """AdamW with a linear warm-up and a linear fall; returns what was spent."""
    classifier = SlotClassifier(model, encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    begun, tokens, smooth = time.monotonic(), 0, 0.0
    for step, batch in zip(range(steps), batches(iter(mixture)), strict=False):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(done / WARMUP, (1 - done) / (1 - WARMUP)) + 1e-6
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(classifier, batch, encoder, LANGUAGE_WEIGHT * (1 - done))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += sum(example.length for example in batch)
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
    parser.add_argument("--steps", type=int, default=3600)
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
