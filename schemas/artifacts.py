"""What an adapter directory holds, and how the identity of files is computed.

An adapter is a PEFT directory that plain ``PeftModel.from_pretrained`` loads, plus ``abstream.json``
(``AdapterManifest``). Its identity is a digest over every file, never its name.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import AdapterRefused
from .events import ArtifactFile, BaseModelRef, Digest, Metrics, Payload, Probability
from .prompt import Prompt
from .task import Task

MANIFEST = "abstream.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_READ_BYTES = 1 << 20


class Probe(Payload):
    """An abstract of known answer: question to label to probability, as the adapter gave it when released."""

    title: str | None = None
    abstract: str
    probabilities: dict[str, dict[str, Probability]]


class AdapterManifest(BaseModel):
    """``abstream.json``: what the adapter answers, and how its scores are to be read."""

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
    data_digest: Digest | None = None
    files: tuple[ArtifactFile, ...] = ()


class VerifiedAdapter(BaseModel):
    """An adapter directory whose every file was checked."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: Digest
    manifest: AdapterManifest


def list_files(folder: Path, *, skip: Iterable[str] = ()) -> tuple[ArtifactFile, ...]:
    """Every file under ``folder`` with its sha256 and size, sorted by path; hidden files are left out."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (path for path in paths if not any(part.startswith(".") for part in path.parts))
    return tuple(
        ArtifactFile(path=path.as_posix(), sha256=_sha256(folder / path), size=(folder / path).stat().st_size)
        for path in kept
        if path.as_posix() not in set(skip)
    )


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
    """Check every file of an adapter directory against its manifest, and the prompt against this program's.

    Raises:
        AdapterRefused: with what is wrong.
    """
    try:
        manifest = AdapterManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise AdapterRefused(f"{folder} has no {MANIFEST}: it is no adapter released by abstream") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise AdapterRefused(f"{folder / MANIFEST}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    present = list_files(folder)
    _same_files(manifest.files, [file for file in present if file.path != MANIFEST])
    if unsafe := [file.path for file in present if Path(file.path).suffix in {".bin", ".pt", ".pth", ".pkl", ".py"}]:
        raise AdapterRefused(f"only safetensors are loaded, never code or pickles: {', '.join(unsafe)}")
    if manifest.prompt_digest != Prompt(manifest.task).digest:
        raise AdapterRefused("the adapter was trained on another prompt than this program writes: train it again")
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
