"""The contents of an adapter directory, and how the identity of its files is computed.

An adapter is a PEFT directory that plain ``PeftModel.from_pretrained`` loads, plus ``abstream.json``
(``AdapterManifest``). Its identity is a digest over every file, never its name.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import AdapterRefused
from .events import AdapterUpdate, ArtifactFile, BaseModelRef, Digest, Metrics, Payload, Probability
from .expected import Expected
from .prompt import Prompt
from .task import Task
from .wording import first

MANIFEST = "abstream.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MOST_FILES = 64
_READ_BYTES = 1 << 20

# Each part of a path, narrow enough to be the same file on every disk: no separator, nothing hidden, no control
# character, no dot or blank at its end.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*(?<![. ])")
# The parts of an adapter, and texts about it. Anything else is code, a pickle, or never read.
_SUFFIXES = frozenset({".safetensors", ".json", ".md", ".txt", ""})

_SIGNATURE = re.compile(r"ed25519:(?P<key>[0-9a-f]{64}):(?P<value>[A-Za-z0-9+/]+={0,2})")

ProbabilitiesByQuestion = dict[str, dict[str, Probability]]


class Probe(Payload):
    """An abstract with the adapter's answer at its release: question to label to probability.

    ``bare`` is the answer of the base without the adapter; None in older adapters, which did not record it.
    """

    title: str | None = None
    abstract: str
    probabilities: ProbabilitiesByQuestion
    bare: ProbabilitiesByQuestion | None = None


class AdapterManifest(BaseModel):
    """``abstream.json``: what the adapter answers, and how its scores are interpreted."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    version: str
    base_model: BaseModelRef
    task: Task
    prompt_digest: Digest
    calibration: dict[str, float] = {}
    thresholds: dict[str, Probability] = {}
    metrics: Metrics | None = None
    probes: tuple[Probe, ...] = ()
    expected: Expected | None = None  # None in older adapters, and with too little validation data
    data_digest: Digest | None = None
    files: tuple[ArtifactFile, ...] = ()


class VerifiedAdapter(BaseModel):
    """An adapter directory whose every file was checked."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: Digest
    manifest: AdapterManifest


def list_files(folder: Path, *, skip: Iterable[str] = ()) -> tuple[ArtifactFile, ...]:
    """Every file in ``folder`` with its sha256 and size, sorted by path; hidden files are left out."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    return tuple(
        ArtifactFile(path=path.as_posix(), sha256=_sha256(folder / path), size=(folder / path).stat().st_size)
        for path in kept
        if path.as_posix() not in set(skip)
    )


def check_paths(files: Iterable[ArtifactFile]) -> None:
    """Check that files with these paths may be written to a disk.

    Raises:
        AdapterRefused: a path leads out of the adapter's folder, may collide with another one on some disk, or is of a
            kind that no adapter has; or there are too many files.
    """
    paths = [file.path for file in files]
    if len(paths) > MOST_FILES:
        raise AdapterRefused(f"the adapter has {len(paths)} files: {MOST_FILES} at most")
    if leading_out := [path for path in paths if not all(map(_NAME.fullmatch, path.split("/")))]:
        raise AdapterRefused(f"the adapter's files would lead out of its folder, or be hidden: {leading_out[0]!r}")
    if len({path.lower() for path in paths}) < len(paths):
        raise AdapterRefused("two of the adapter's files have one name, on a disk that does not tell A from a")
    if unsafe := [path for path in paths if PurePosixPath(path).suffix.lower() not in _SUFFIXES]:
        raise AdapterRefused(f"only safetensors are loaded, never code or pickles: {', '.join(unsafe)}")


def signature_text(key: str, value: bytes) -> str:
    """A signature as an update carries it: ``ed25519:``, the ``key_id`` without its ``sha256:``, ``:`` and base64."""
    return f"ed25519:{key.removeprefix('sha256:')}:{base64.b64encode(value).decode()}"


def read_signature(text: str) -> tuple[str, bytes]:
    """The ``key_id`` and the bytes of a signature that an update carries.

    Raises:
        AdapterRefused: it is in another format.
    """
    if match := _SIGNATURE.fullmatch(text):
        with suppress(ValueError):
            return f"sha256:{match['key']}", base64.b64decode(match["value"], validate=True)
    raise AdapterRefused(f"the signature {text[:40]!r} is not of the kind ed25519:KEY:BASE64")


def signed_bytes(update: AdapterUpdate) -> bytes:
    """The bytes that are signed: the adapter's digest, name, version and base.

    The line ``abstream.adapter.v1``, then JSON in ASCII without blanks, names sorted:
    ``{"base_model":{"id":…,"revision":…},"digest":…,"name":…,"version":…}``. Action and address are not signed, so that
    a rollback, which names a signed adapter again, needs no key.
    """
    said = update.model_dump(
        mode="json", include={"base_model": {"id", "revision"}, "digest": True, "name": True, "version": True}
    )
    return b"abstream.adapter.v1\n" + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def key_id(public_key: bytes) -> str:
    """How a signature names its key: the sha256 of the key's 32 bytes."""
    return f"sha256:{hashlib.sha256(public_key).hexdigest()}"


def digest_of(files: Iterable[ArtifactFile]) -> str:
    """``sha256:…`` over the sorted list of files and their digests, in the format of ``sha256sum``."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def seal(folder: Path, manifest: AdapterManifest) -> VerifiedAdapter:
    """Write ``abstream.json`` with the digest of every other file, and return the adapter as verified."""
    sealed = manifest.model_copy(update={"files": list_files(folder, skip=[MANIFEST])})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n")
    return verify(folder)


def verify(folder: Path) -> VerifiedAdapter:
    """Check every file of an adapter directory against its manifest, and its prompt against that of this program.

    Raises:
        AdapterRefused: something does not match.
    """
    try:
        manifest = AdapterManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise AdapterRefused(f"{folder} has no {MANIFEST}: it is no adapter released by abstream") from None
    except ValidationError as error:
        raise AdapterRefused(f"{folder / MANIFEST}: {first(error)}") from None
    present = list_files(folder)
    _same_files(manifest.files, [file for file in present if file.path != MANIFEST])
    check_paths(present)
    if manifest.prompt_digest != Prompt(manifest.task).digest:
        raise AdapterRefused("the adapter was trained on another prompt than this program writes: train it again")
    asked = {question.name for question in manifest.task.questions}
    if unasked := sorted({*manifest.calibration, *manifest.thresholds} - asked):
        raise AdapterRefused(f"the adapter calibrates questions that its task does not ask: {', '.join(unasked)}")
    if (known := manifest.expected) and (unasked := sorted({*known.labels, *known.confidence} - asked)):
        raise AdapterRefused(f"the adapter expects answers that its task does not ask for: {', '.join(unasked)}")
    return VerifiedAdapter(path=folder, digest=digest_of(present), manifest=manifest)


def _same_files(expected: Iterable[ArtifactFile], present: Iterable[ArtifactFile]) -> None:
    want = {file.path: file.sha256 for file in expected}
    have = {file.path: file.sha256 for file in present}
    if missing := sorted({*want, *ADAPTER_FILES} - have.keys()):
        raise AdapterRefused(f"the adapter lacks {', '.join(missing)}")
    if extra := sorted(have.keys() - want.keys()):
        raise AdapterRefused(f"the adapter holds files its manifest does not name: {', '.join(extra)}")
    if changed := sorted(path for path in want if want[path] != have[path]):
        raise AdapterRefused(f"the adapter's files were changed after its release: {', '.join(changed)}")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
