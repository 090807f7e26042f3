"""Malformed entries for fuzzing: sound ones mutated at random, and hand-written extreme cases."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from abstream.schemas.streams import MAX_EVENT_BYTES

Fields = dict[bytes, bytes]

WORDS = [
    "β-catenin",
    "漢字",
    "naïve",
    "𝔸",
    "tumour",
    "\\",
    '"',
    "\0",
    "\x7f",
    "\ufeff",
    "\u202e",
    "metastasis",
    "<|end|>",
    "{}",
    "null",
]
ODD_VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 1e308, 2**63, 2**64, 10**400, "", " ", "\0", "\ud7ff\U0010ffff", "x" * 60_000),
    *([], {}, [[]], [None], ["a", 1], {"": ""}, {"a": {"b": [1, {"c": None}]}}),
    *({str(number): "" for number in range(40)}, ["x"] * 2_000, [1] * 2_000, {"k" * 5_000: 1}),
]
ODD_TOKENS = [
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 5_000, b"0." + b"9" * 5_000, b"1" + b"0" * 100_000),
    *(rb'"\ud800"', rb'"\udc00\ud800"', rb'"\u0000"', b'"\0"', b"'single'", b"undefined", b"tru", b"01", b"+1", b".5"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 200 + b"]" * 200, b"/* comment */ 1", b"\xef\xbb\xbf1", b"1,", b""),
]
ODD_BYTES = [
    b"",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"caf\xe9",
    "é".encode(),
    b"base64:",
]


def sound(chance: Random) -> dict[str, Any]:
    """A valid event with a unique identity."""
    event = {
        "specversion": "1.0",
        "id": f"{chance.getrandbits(96):x}",
        "source": f"urn:fuzz:{chance.getrandbits(96):x}",
        "type": "abstream.abstract.submitted.v1",
        "data": {"title": text(chance, 8), "abstract": text(chance, 60)},
    }
    if chance.random() < 0.5:
        event |= {"subject": "s", "time": "2026-01-31T12:00:00Z", "traceparent": "00-1", "newattribute": {"deep": [1]}}
        event["data"] |= {
            "identifiers": {"pmid": "1", "doi": "10.1/x", "new": [{"kept": 1}]},
            "journal": "J", "year": 2026, "language": "en", "publication_types": ["Review"], "mesh": ["Neoplasms"],
            "metadata": {"project": "p", "β": "γ"}, "newfield": {"kept": [1.5, None]},
        }  # fmt: skip
    return event


def text(chance: Random, words: int) -> str:
    return " ".join(chance.choices([*WORDS, "cancer", "of", "the"], k=words))


# Mutations of the event before it is serialised.


def take_away(event: dict[str, Any], chance: Random) -> None:
    holder = chance.choice(list(holders(event)))
    if holder:
        del holder[chance.choice(list(holder))]


def replace(event: dict[str, Any], chance: Random) -> None:
    holder = chance.choice(list(holders(event)))
    if holder:
        holder[chance.choice(list(holder))] = chance.choice(ODD_VALUES)


def add(event: dict[str, Any], chance: Random) -> None:
    holder = chance.choice(list(holders(event)))
    holder[chance.choice(["model_dump", "__class__", "_OPTIONAL", "data", "", "\0", "new"])] = chance.choice(ODD_VALUES)


def another_version(event: dict[str, Any], chance: Random) -> None:
    event["specversion"] = chance.choice(["0.3", "1.1", "2.0", 1.0, None, ["1.0"]])


def another_type(event: dict[str, Any], chance: Random) -> None:
    event["type"] = chance.choice(["", "abstream.abstract.submitted.v2", "abstream.abstract.classified.v1", None, 7])


def holders(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The envelope, and the objects nested in it."""
    yield event
    for value in event.values():
        if isinstance(value, dict):
            yield from holders(value)


# Mutations of the serialised event.


def flip(body: bytes, chance: Random) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(body: bytes, chance: Random) -> bytes:
    return body[: chance.randrange(len(body))]


def put_in(body: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(body))
    return body[:at] + chance.choice([*ODD_BYTES, *ODD_TOKENS[:20]]) + body[at:]


def repeat(body: bytes, chance: Random) -> bytes:
    begin, end = sorted(chance.sample(range(len(body) + 1), 2))
    return body[:end] + body[begin:]


def name_twice(body: bytes, chance: Random) -> bytes:
    name = chance.choice([b'"data":', b'"abstract":', b'"title":', b'"id":', b'"type":', b'"specversion":'])
    return body.replace(name, name + b" null, " + name, 1)


def put_token(body: bytes, chance: Random) -> bytes:
    """Replace a value, either of a field that is read or of an unknown one."""
    name = chance.choice([b'"data": ', b'"abstract": ', b'"year": ', b'"time": ', b'"deep": ', b'"kept": ', b'"new": '])
    before, found, after = body.partition(name)
    token = chance.choice(ODD_TOKENS)
    return before + found + token + b", " + b'"rest": ' + after if found else body + token


def encode_otherwise(body: bytes, chance: Random) -> bytes:
    return body.decode().encode(chance.choice(["utf-16", "utf-32-le", "utf-7", "utf-8-sig"]))


TO_EVENTS: list[Callable[[dict[str, Any], Random], None]] = [take_away, replace, add, another_version, another_type]
TO_BODIES: list[Callable[[bytes, Random], bytes]] = [
    *(flip, cut, put_in, repeat, name_twice, put_token, encode_otherwise)
]


def mutated(chance: Random) -> Fields:
    """One entry, usually with one mutation, sometimes with two."""
    kind = chance.random()
    if kind < 0.15:
        return plain(chance)
    event = sound(chance)
    if kind < 0.5:
        chance.choice(TO_EVENTS)(event, chance)
    body = json.dumps(event, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
    if kind > 0.45:
        body = chance.choice(TO_BODIES)(body, chance)
    return {b"event": body} | (beside(chance) if chance.random() < 0.1 else {})


def beside(chance: Random) -> Fields:
    """Unknown fields beside the event."""
    return {chance.choice(ODD_BYTES): chance.choice(ODD_BYTES) for _ in range(3)}


def plain(chance: Random) -> Fields:
    """Plain fields in any combination, with any values."""
    names = [name for name in (b"title", b"abstract", b"id", b"pmid", b"Title", b"\xfftitle") if chance.random() < 0.5]
    fields = {name: chance.choice([text(chance, 5).encode(), *ODD_BYTES]) for name in names}
    if fields.get(b"id"):
        fields[b"id"] += b"%x" % chance.getrandbits(96)
    return fields or {b"": b""}


def worst() -> Iterator[Fields]:
    """The extreme cases: few, and large."""
    envelope = (
        b'{"specversion": "1.0", "id": "%d", "source": "worst", "type": "abstream.abstract.submitted.v1", "data": {'
    )
    contents = [
        b'"x": ' + b"[" * 1_000_000,
        b'"x": ' + b'{"a":' * 200_000,
        b'"mesh": [' + b"1," * 500_000 + b"1]",
        b'"metadata": {' + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
        b'"metadata": {"' + b"k" * 1_000_000 + b'": 1}',
        b'"year": ' + b"9" * 1_000_000,
        b'"abstract": "' + b"a" * 1_000_000 + b'"',
        b'"abstract": "' + b"a" * MAX_EVENT_BYTES + b'"',
        b'"abstract": "' + rb"\u00e9" * 160_000 + b'"',
        b'"abstract": "A", ' + b",".join(b'"%d":1' % number for number in range(80_000)),
    ]
    for number, content in enumerate(contents):
        yield {b"event": envelope % number + content + b"}}"}
    yield {b"event": b"[" * 1_000_000}
    yield {b"title": b"a" * MAX_EVENT_BYTES}
    yield {b"%d" % number: b"" for number in range(10_000)}
