"""How the shipped base model ``phi3-nano`` was made: a real Phi-3 architecture, small, trained from nothing.

    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184   # keep freed pages: half as fast again
    python -m abstream.training.base --data DATA --out ops/models/phi3-nano --steps 5750

1. a byte-level BPE tokenizer of 12 288 tokens, with Phi-3's chat control tokens;
2. embeddings initialised by latent semantic analysis (``word_vectors.py``), so that similar words start out similar;
3. one run over permitted texts (``corpus.py``), in which every example is a prompt of the oncology task. The loss is
   next-token loss on the abstract's own text, plus the loss on the answers of a dictionary (``weak_labels.py``), plus
   the loss on the dictionary's marks of single words (``marks.py``).

The model follows the prompt and knows what the dictionary knows. The only labels made by people are the types of
``corpus.TYPED``.
"""

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import Phi3Config, Phi3ForCausalLM

from ..consumer.engine.forward import SlotClassifier, pack
from ..consumer.engine.tokens import PromptEncoder
from ..schemas import ONCOLOGY, Abstract, Prompt
from ..schemas.prompt import CONTROL_TOKENS
from ..schemas.task import LETTERS
from . import corpus
from .marks import Marked, Reader, marks
from .objective import answers_of, batches, example, slot_loss
from .swaps import TypeSwap
from .weak_labels import WeakLabels, names_cancer
from .word_vectors import word_vectors

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<unk>"
VOCABULARY = 12_288
MAX_PROMPT_TOKENS = 640  # fits 95 % of the abstracts; the rest is truncated, as in serving
SHORT_WORDS = 110  # some examples are cut to this length, so that more of them fit into the same time
SHORT_SHARE = 0.25
SHORT_CHARACTERS = 400  # a cut example begins at a sentence with more than this many characters left
SENTENCE_END = re.compile(r"[.!?]\s+")
WORD_DROPOUT = 0.1  # of the words, in half of the examples
SWAPPED = 0.35  # of the examples that are not curated: the words that name a type are swapped for another's
POOL = 1_024  # examples that are sorted by length together
BATCH_TOKENS = 4_096  # without the prefix, which is run once a step
PEAK_LEARNING_RATE = 1.5e-3
WARMUP = 0.02  # of the run
LANGUAGE_WEIGHT = 0.25  # of the next-token loss at the start; falls to 0 at the end
LANGUAGE_SHARE = 0.125  # of an abstract's positions, since the softmax over the vocabulary costs as much as the model
MARKS_WEIGHT = 0.5  # of the loss on the marks
# Of the examples. "curated" have a curated type. "typed" and "named" name cancer, with or without a type that the
# dictionary finds. "molecular" and "rest" do not: the former are of molecular biology, where it is hardest to tell
# whether a gene has to do with cancer.
SHARES = {"curated": 0.18, "typed": 0.3, "named": 0.15, "molecular": 0.2, "rest": 0.17}
EVENNESS = 0.5  # 0: types as often as they occur; 1: all types equally often
WIDTH = 256
EMBEDDING_SCALE = 0.04  # initial root mean square of the embeddings' elements, as of all other weights
PASS_THROUGH = 0.3  # of the identity, added to the value and output projections of each layer at the start
NO_TITLE, NO_TEXT = 0.4, 0.1  # of the examples, so that a title or a text alone can be answered


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


def new_model(vectors: NDArray[np.float32], seed: int) -> Phi3ForCausalLM:
    """A Phi-3 with 3 layers of width 256: 5.7 million parameters, input and output embeddings tied.

    The embeddings are initialised with ``vectors``, of shape (vocabulary, width). Attention initially passes on part of
    what it attends to, so that the slots see the words of an abstract from the first step.
    """
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        original_max_position_embeddings=1024,
        initializer_range=EMBEDDING_SCALE,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = Phi3ForCausalLM(config)
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        noise = 0.1 * torch.randn(embeddings.shape)
        embeddings.copy_(EMBEDDING_SCALE * (WIDTH**0.5 * torch.from_numpy(vectors) + noise))
        for layer in model.model.layers:
            layer.self_attn.qkv_proj.weight[-WIDTH:] += PASS_THROUGH * torch.eye(WIDTH)  # the values
            layer.self_attn.o_proj.weight += PASS_THROUGH * torch.eye(WIDTH)
    return model


def average_in_one_head(model: Phi3ForCausalLM) -> None:
    """Make the last head of each layer a mean over all positions up to the current one, permanently.

    Its queries and keys are zero, so all positions have equal weight, and the gradients of both are zero too: no step
    changes them, here or in fine-tuning. Such a head sums up what many words each indicate weakly, as a linear
    classifier does.
    """
    head = model.config.hidden_size // model.config.num_attention_heads
    with torch.no_grad():
        for layer in model.model.layers:
            queries, keys, _ = layer.self_attn.qkv_proj.weight.chunk(3)
            queries[-head:], keys[-head:] = 0, 0


class Pool:
    """Abstracts to draw from, each with its type if that is known. The rarer a type, the likelier its abstracts."""

    def __init__(self) -> None:
        self._all: list[tuple[Abstract, str | None]] = []
        self._weights: list[float] = []

    def __len__(self) -> int:
        return len(self._all)

    def add(self, abstract: Abstract, kind: str | None) -> None:
        self._all.append((abstract, kind))

    def balance(self) -> None:
        """Weight every abstract by its type's frequency to the power of ``-EVENNESS``, after the last ``add``."""
        frequency = Counter(kind for _, kind in self._all)
        self._weights = list(accumulate(frequency[kind] ** -EVENNESS for _, kind in self._all))

    def draw(self, draws: random.Random) -> tuple[Abstract, str | None]:
        [drawn] = draws.choices(self._all, cum_weights=self._weights)
        return drawn


class Mixture:
    """An endless, seeded stream of examples, drawn from five pools by ``SHARES``."""

    def __init__(self, data: Path, encoder: PromptEncoder, seed: int) -> None:
        self._random = random.Random(seed)
        self._encoder = encoder
        self._label = WeakLabels(data / corpus.ONTOLOGY)
        self._swap = TypeSwap()
        self._pools = {name: Pool() for name in SHARES}
        for abstract, kind in corpus.typed(data):
            self._pools["curated"].add(abstract, kind)
        for abstract in corpus.terms(data):
            self._add("named", abstract)
        for abstract in corpus.texts(data, [corpus.MOLECULAR]):
            self._add("molecular", abstract)
        for abstract in corpus.texts(data, [name for name in corpus.TEXTS if name != corpus.MOLECULAR]):
            self._add("rest", abstract)
        for pool in self._pools.values():
            pool.balance()

    def _add(self, pool: str, abstract: Abstract) -> None:
        kind = self._label.kind(abstract)
        if names_cancer(Prompt.body(abstract)):
            pool = "typed" if kind else "named"
            self._swap.learn(Prompt.body(abstract))
        self._pools[pool].add(abstract, kind)

    def __iter__(self) -> Iterator[Marked]:
        names = [name for name, pool in self._pools.items() if len(pool)]
        shares = [SHARES[name] for name in names]
        while True:
            [name] = self._random.choices(names, shares)
            yield self._example(*self._pools[name].draw(self._random), is_curated=name == "curated")

    def _example(self, abstract: Abstract, kind: str | None, is_curated: bool) -> Marked:
        """Label both questions by the visible part of the abstract, or the type by the whole if that part has none.

        A curated abstract keeps its type. It is about cancer even if the visible part does not name it, so in that case
        the first question is not asked.
        """
        visible = self._visible(abstract)
        if not is_curated and self._random.random() < SWAPPED:
            visible = self._swap(visible, self._random)
            kind = self._label.kind(visible)
        elif not is_curated:
            kind = self._label.kind(visible) or kind
        answers = {"cancer_type": kind} if kind else {}
        cancer = self._label.cancer(visible)
        if cancer == "Cancer" or not is_curated:
            answers["cancer"] = cancer
        plain = example(self._encoder, ONCOLOGY, visible, answers)
        return Marked(plain.tokens, plain.answers, marks(self._encoder, visible, self._random))

    def _visible(self, abstract: Abstract) -> Abstract:
        draw, text = self._random.random(), self._passage(abstract.abstract)
        if abstract.title and draw < NO_TITLE:
            return Abstract(abstract=text)
        if abstract.title and draw < NO_TITLE + NO_TEXT:
            return Abstract(title=abstract.title, abstract="")
        return Abstract(title=abstract.title, abstract=text)

    def _passage(self, text: str) -> str:
        """The whole text, or a passage from its beginning or any sentence; with word dropout in half of the cases."""
        if self._random.random() < SHORT_SHARE:
            if self._random.random() < 0.5:
                starts = (match.end() for match in SENTENCE_END.finditer(text))
                text = text[self._random.choice([0, *(at for at in starts if len(text) - at > SHORT_CHARACTERS)]) :]
            text = " ".join(text.split(" ", SHORT_WORDS)[:SHORT_WORDS])
        if self._random.random() < 0.5:
            text = " ".join(word for word in text.split(" ") if self._random.random() >= WORD_DROPOUT) or text
        return text


def shuffled_batches(examples: Iterator[Marked]) -> Iterator[list[Marked]]:
    """Batches of similar length, ``BATCH_TOKENS`` each, from a pool of ``POOL`` examples; in random order."""
    shuffled = random.Random(POOL)
    while True:
        grouped = list(batches(islice(examples, POOL), BATCH_TOKENS))
        shuffled.shuffle(grouped)
        yield from grouped


def loss_of(
    classifier: SlotClassifier, reader: Reader, batch: list[Marked], encoder: PromptEncoder, language_weight: float
) -> torch.Tensor:
    """The loss of a batch: ``slot_loss``, plus the weighted mean losses of the marks and of the next tokens."""
    ids, lengths = pack([one.tokens for one in batch], torch.device("cpu"))
    run = classifier.run
    before, states = run.all_states(ids, lengths)
    loss = slot_loss(run.label_logits(states[run.slots_of(lengths)]), answers_of(batch, ids.device))
    loss = loss + MARKS_WEIGHT * reader.loss(before, batch, lengths)
    in_body = torch.cat([torch.arange(length) < length - len(encoder.suffix) - 1 for length in lengths])
    read = (in_body & (torch.rand(len(ids)) < LANGUAGE_SHARE)).nonzero().squeeze(1)
    if len(read):
        logits = classifier.phi3.lm_head(states[read]).float()
        loss = loss + language_weight * functional.cross_entropy(logits, ids[read + 1])
    return loss


class MasterWeights:
    """AdamW on float32 copies of bfloat16 weights (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740)."""

    def __init__(self, served: Iterable[torch.Tensor]) -> None:
        self._served = list(served)
        self._masters = [weight.detach().float().clone() for weight in self._served]
        self._optimizer = torch.optim.AdamW(self._masters, betas=(0.9, 0.98), weight_decay=0.05, fused=True)

    def step(self, learning_rate: float) -> None:
        """Update the masters with the gradients of the served weights, and copy them back, rounded."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        for master, served in zip(self._masters, self._served, strict=True):
            master.grad = None if served.grad is None else served.grad.float()
            served.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, 1.0)
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self._served, self._masters)


def train(
    model: Phi3ForCausalLM, mixture: Mixture, encoder: PromptEncoder, steps: range, say: Callable[[str], None]
) -> dict[str, float]:
    """Train with linear warm-up and linear decay of the learning rate; returns what was spent.

    If ``steps`` begins later than at 0, the optimizer has no state yet, so that the warm-up begins there.
    """
    classifier, reader = SlotClassifier(model.bfloat16().train(), encoder), Reader(WIDTH)
    weights = MasterWeights([*model.parameters(), *reader.parameters()])
    begun, tokens, smooth = time.monotonic(), 0, 0.0
    for step, batch in zip(steps, shuffled_batches(iter(mixture)), strict=False):
        done, warm = step / steps.stop, (step - steps.start) / steps.stop
        loss = loss_of(classifier, reader, batch, encoder, LANGUAGE_WEIGHT * (1 - done))
        loss.backward()
        weights.step(PEAK_LEARNING_RATE * min(warm / WARMUP, (1 - done) / (1 - WARMUP)) + 1e-6)
        tokens += sum(one.tokens.tail_length for one in batch)
        smooth = 0.98 * smooth + 0.02 * loss.item() if warm else loss.item()
        if step % 250 == 249:
            rate = tokens / (time.monotonic() - begun)
            say(f"step {step + 1}  tokens {tokens:,}  loss {smooth:.3f}  {rate:,.0f} tokens/s")
    return {
        "steps": len(steps),
        "tokens": tokens,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "loss": round(smooth, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretraining/, cancer_types/, lexicon/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5750)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--from-step", type=int, default=0, help="go on from what a run that was cut short left in OUT")
    arguments = parser.parse_args()
    prompt, first = Prompt(ONCOLOGY), arguments.from_step
    if not first:
        texts = enumerate(corpus.texts(arguments.data))
        train_tokenizer((Prompt.body(text) for number, text in texts if number % 4 == 0), prompt, arguments.out)
    encoder = PromptEncoder(arguments.out, prompt, MAX_PROMPT_TOKENS)
    if first:
        model = Phi3ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    else:
        plain = [encoder.encode(abstract) for abstract in corpus.texts(arguments.data)]
        vectors = word_vectors([one.ids[one.body] for one in plain], VOCABULARY, WIDTH, arguments.seed)
        model = new_model(vectors, arguments.seed)
    average_in_one_head(model)
    mixture = Mixture(arguments.data, encoder, arguments.seed + first)

    def say(line: str) -> None:
        print(line, flush=True)
        model.save_pretrained(arguments.out)  # so that an interrupted run leaves a model too

    spent = train(model, mixture, encoder, range(first, arguments.steps), say)
    model.save_pretrained(arguments.out)
    print(json.dumps({**spent, "parameters": sum(p.numel() for p in model.parameters())}))


if __name__ == "__main__":
    main()
