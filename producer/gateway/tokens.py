"""Authentication: bearer tokens from a file."""

import hashlib
import hmac
import time
from pathlib import Path

import structlog

from ...schemas import AbstreamError

_LOOK_SECONDS = 1.0  # between two checks whether the file has changed
_LEAST_CHARACTERS = 16

log = structlog.get_logger()


class TokensUnusable(AbstreamError):
    """The file of tokens cannot be used: correct it."""


class Tokens:
    """The tokens of a file, which is read again when it has changed.

    Each line has a token, or a client's name and its token; lines that begin with ``#`` are comments. Tokens with the
    same name are of one client, so that a new token can be handed out before the old one is removed.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            TokensUnusable: it cannot be read, has no token, or has one that is too short.
        """
        self._path = path
        self._looked = time.monotonic()
        self._version = self._version_now()
        self._owners = _read(path)

    def owner(self, token: str) -> str | None:
        """The name of the client with this token, "" if it has no name; None if the token is unknown."""
        self._refresh()
        given, found = _digest(token.encode("utf-8", "surrogateescape")), None
        for digest, name in self._owners:  # compare all, so that the time reveals nothing
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def reload(self) -> None:
        """Read the file again; if it cannot be used, log that and keep the old tokens."""
        try:
            self._version = self._version_now()
            self._owners = _read(self._path)
            log.info("tokens_read", tokens=len(self._owners))
        except TokensUnusable as problem:
            log.error("tokens_unusable", problem=str(problem))

    def _refresh(self) -> None:
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            if self._version_now() != self._version:
                self.reload()

    def _version_now(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: Path) -> list[tuple[bytes, str]]:
    """The digest and the owner of every token; the tokens themselves are not kept."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # Windows editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise TokensUnusable(f"cannot read the tokens of {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or len(words[-1]) < _LEAST_CHARACTERS:
            raise TokensUnusable(
                f"{path}, line {number}: write a name and a token of at least {_LEAST_CHARACTERS} characters, such as "
                "`python -c 'import secrets; print(secrets.token_urlsafe())'` gives"
            )
        found.append((_digest(words[-1].encode()), words[0] if len(words) == 2 else ""))
    if not found:
        raise TokensUnusable(f"{path} holds no token: write one a line, a client's name before it")
    return found


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
