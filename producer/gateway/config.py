"""The settings of a gateway."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from ..defaults import MAX_BACKLOG

_Count = Annotated[int, Field(gt=0)]
_Seconds = Annotated[float, Field(gt=0)]


class GatewayConfig(BaseModel):
    """The settings of a gateway; each is a flag of ``abstream gateway``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_file: Path | None = Field(
        None, description="File of bearer tokens, one per line after a client's name; read again when it changes."
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; without --tokens-file it must be one of this machine."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port to listen on; 0: a free one.")
    source: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        "urn:abstream:gateway",
        description="Identifies an abstract together with its id. A client with a token has SOURCE:NAME as its own.",
    )
    max_body_bytes: _Count = Field(64 << 20, description="Size limit of a request's body.")
    max_backlog: Annotated[int, Field(ge=0)] = Field(
        MAX_BACKLOG, description="Accept no abstracts while this many are waiting in their lane; 0: no limit."
    )
    wait_replicas: Annotated[int, Field(ge=0)] = Field(
        0, description="Number of Redis replicas that must confirm a submission."
    )
    max_wait_seconds: _Seconds = Field(60, description="Maximum time that a request can wait for a result.")
    max_subscribers: _Count = Field(2_000, description="Maximum number of prediction streams at a time.")
    heartbeat_seconds: _Seconds = Field(15, description="Interval of heartbeats on a prediction stream.")
    cors_origin: tuple[str, ...] = Field((), description="Origin whose web pages may call the API; repeatable.")

    @field_validator("host")
    @classmethod
    def _is_here_or_guarded(cls, host: str, info: ValidationInfo) -> str:
        if info.data.get("tokens_file") is None and not is_loopback(host):
            raise ValueError(
                f"without --tokens-file anybody who reaches {host} could use this: set it, or listen on 127.0.0.1"
            )
        return host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
