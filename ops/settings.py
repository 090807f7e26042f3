"""Flags, environment and file become settings here and nowhere else.

Precedence: flag, then environment (``ABSTREAM_…``), then the TOML, YAML or JSON file of ``--config``, then the default.
"""

import os
import re
import socket
import sys
import types
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..schemas import Streams
from ..schemas.wording import reason

LogFormat = Literal["console", "json"]
Command = TypeVar("Command", bound=Callable[..., Any])
Config = TypeVar("Config", bound=BaseModel)

DEFAULT_MODEL = "phi3-nano"
_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_REDIS_URL = re.compile(r"((?:rediss?(?:\+cluster)?|unix)://)(?:[^?]*@)?([^?]*).*", re.DOTALL)
SHIPPED_ADAPTERS = {"phi3-nano": "phi3-nano-oncology"}  # of each shipped model


def check_redis_url(url: str) -> None:
    """Check a URL before it is used: an error from the library might show part of the password.

    Raises:
        click.UsageError: it is not a Redis URL, or a character in it must be escaped.
    """
    if not _is_redis_url(url):
        raise click.UsageError(
            "the Redis URL cannot be read. Write redis://USER:PASSWORD@HOST:6379, rediss://… or unix:///PATH, or "
            "redis+cluster://… or rediss+cluster://… for a Redis Cluster. A path is a database number, and ? starts "
            "redis-py's options. In user and password, write / as %2F, @ as %40 and : as %3A"
        )


def _is_redis_url(url: str) -> bool:
    from ..producer.connection import connect_blocking

    try:
        parts = urlsplit(url)
        is_path_sound = parts.scheme == "unix" or re.fullmatch(r"/?|/\d+", parts.path)  # redis-py takes any other for 0
        if parts.scheme not in _SCHEMES or parts.port == 0 or not is_path_sound:
            return False
        pool = connect_blocking(url, Streams()).connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing yet
    except (TypeError, ValueError):
        return False
    return True


def without_password(text: str) -> str:
    """A URL of Redis, or an argument that holds one, without user and password, which may also stand behind a "?"."""
    return _REDIS_URL.sub(r"\1\2", text)


def option(name: str, *, env: tuple[str, ...] = (), **attributes: Any) -> Callable[[Command], Command]:
    """A flag with its environment variable ``ABSTREAM_…``."""
    variable = f"ABSTREAM_{name.upper().replace('-', '_')}"
    attributes.setdefault("show_default", True)
    return click.option(f"--{name}", envvar=[variable, *env], show_envvar=True, **attributes)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one, in the order given."""

    def apply(command: Command) -> Command:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return apply


def retention_options(command: Command) -> Command:
    """How long results are kept, the same wherever streams are trimmed."""
    days = click.FloatRange(min=0, min_open=True)
    return options(
        option(
            "keep-predictions-days",
            type=days,
            default=7.0,
            help="How long predictions are kept; longer while a subscriber group needs them.",
        ),
        option("keep-refusals-days", type=days, default=30.0, help="How long refusals are kept; likewise."),
    )(command)


adapter_options = options(
    option(
        "guard-abstracts",
        type=click.IntRange(min=0),
        default=500,
        help="So many first abstracts of a new adapter are watched, and it is rolled back if they are not as they were "
        "with the one before; 0: none.",
    ),
    option(
        "guard-shift",
        type=click.FloatRange(min=0, min_open=True, max=1),
        default=0.15,
        help="How far, beyond chance, the share of reviews may rise or that of the first label change meanwhile.",
    ),
    option(
        "guard-errors",
        type=click.FloatRange(min=0, max=1),
        default=0.02,
        help="How far the share of failures may rise.",
    ),
    option(
        "shadow-share",
        type=click.FloatRange(min=0, max=1),
        default=1.0,
        help="Share of the live abstracts that an adapter announced as shadow scores, as idle time allows.",
    ),
)


def config_options(config: type[BaseModel]) -> Callable[[Command], Command]:
    """A flag for every field of ``config``, with the field's description and default."""
    return options(*(_option_of(name, field) for name, field in config.model_fields.items()))


def _option_of(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    kind = _plain_type(field.annotation)
    attributes: dict[str, Any] = {"help": field.description, "required": field.is_required()}
    if not field.is_required():
        attributes["default"] = field.default
    if kind is bool:
        attributes["is_flag"] = True
    elif get_origin(kind) is Literal:
        attributes["type"] = click.Choice(get_args(kind))
    elif get_origin(kind) is tuple:
        attributes |= {"type": str, "multiple": True}
    else:
        attributes["type"] = click.Path(path_type=Path) if kind is Path else kind
    return option(name.replace("_", "-"), **attributes)


def _plain_type(kind: Any) -> Any:
    """The type without pydantic's annotations and without ``None``."""
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return _plain_type(next(one for one in get_args(kind) if one is not type(None)))
    return kind


def build(config: type[Config], values: dict[str, Any]) -> Config:
    """The config, or a usage error that names each flag that is wrong and why."""
    try:
        return config(**values)
    except ValidationError as error:
        said = [f"--{str(one['loc'][0]).replace('_', '-')}: {reason(one)}" for one in error.errors()]
        raise click.UsageError("; ".join(said)) from error


def adapter_cache() -> Path:
    """Where local copies of adapters are kept: ``ABSTREAM_ADAPTER_CACHE``, or with the caches of other programs."""
    given = os.environ.get("ABSTREAM_ADAPTER_CACHE")
    return Path(given).expanduser() if given else _cache() / "adapters"


def budgets_file() -> Path:
    """The file that remembers how many tokens a forward pass takes on which device."""
    return _cache() / "budgets.json"


def admissions_file() -> Path:
    """The file that remembers which adapters may be served in eight bits."""
    return _cache() / "admitted.json"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "abstream"


intake_options = options(
    option(
        "adapter-cache",
        type=click.Path(file_okay=False, path_type=Path),
        default=adapter_cache,
        show_default="~/.cache/abstream/adapters",
        help="Local copies of announced adapters; the last few stay, so that a rollback needs no store.",
    ),
    option(
        "max-adapter-bytes",
        type=click.IntRange(min=1),
        default=2_000_000_000,
        help="Size limit of an adapter, checked before any of it is read.",
    ),
    option(
        "adapter-public-key",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Serve only adapters signed with this key, or one of several.",
    ),
)

STORE_HELP = "Where released adapters are kept: a folder that every worker reaches under the same path, or s3://…"
sign_key_option = option(
    "sign-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Private key that signs the adapter; adapters keygen makes one.",
)

model_options = options(
    option(
        "engine",
        type=click.Choice(["torch", "fake", "chaos"]),
        default="torch",
        help="fake: answers from a hash, to test streams without a model; chaos: the same, for abstream chaos.",
    ),
    option(
        "engine-milliseconds",
        type=click.FloatRange(min=0),
        default=0.0,
        hidden=True,  # of the chaos engine, which only abstream chaos starts
    ),
    option("model", default=DEFAULT_MODEL, help="A shipped model, a local Phi-3 folder, or a Hugging Face id."),
    option("model-revision", help="Revision of the Hugging Face id."),
    option(
        "task",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Task file; an adapter brings its own.",
    ),
    option("device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="auto: CUDA if there is a GPU."),
    option(
        "dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "fp8", "int8"]),
        default="auto",
        help="auto: bfloat16 on CUDA. fp8 (Hopper GPUs) and int8 (CPUs) need abstream admit first.",
    ),
    option("threads", type=click.IntRange(min=1), help="CPU threads of the engine; torch's own choice by default."),
    option(
        "max-prompt-tokens",
        type=click.IntRange(min=64),
        default=2046,
        help="Longer abstracts are cut and marked truncated.",
    ),
    option(
        "max-batch-tokens",
        type=click.IntRange(min=64),
        default=8192,
        help="Tokens of one forward pass, padding included.",
    ),
)

engine_options = options(
    model_options,
    option(
        "adapter",
        default="auto",
        metavar="FOLDER|auto|none",
        help="auto: the one included with the model, until another is announced; none: the bare base, until then. "
        "With a FOLDER, a worker serves that one and ignores announcements.",
    ),
)


def shipped_model(name: str) -> str:
    """The folder of a model that comes with abstream; any other name is returned as it is."""
    if name in SHIPPED_ADAPTERS and not Path(name).is_dir():
        return str(files("abstream.ops.models") / name)
    return name


def adapter_folder(adapter: str, model: str, *, own_task: bool) -> Path | None:
    """The folder that ``--adapter`` means; None for the bare base.

    Args:
        adapter: a folder, ``auto`` or ``none``.
        model: as given by ``--model``.
        own_task: whether a task file was given, which no shipped adapter answers.

    Raises:
        click.BadParameter: there is no such folder.
    """
    if adapter == "none":
        return None
    if adapter == "auto":
        shipped = None if own_task or Path(model).is_dir() else SHIPPED_ADAPTERS.get(model)
        return Path(str(files("abstream.ops.models") / shipped)) if shipped else None
    if not Path(adapter).is_dir():
        raise click.BadParameter(f"there is no folder {adapter}", param_hint="--adapter")
    return Path(adapter)


def worker_name() -> str:
    """A name no other living worker has: host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def read_config_file(path: Path, group: click.Group) -> dict[str, dict[str, Any]]:
    """Defaults for every command from a file: keys at the top serve all commands, a table such as ``work`` one.

    The ``config.json`` of a fine-tuning run is such a file.

    Raises:
        click.BadParameter: the file cannot be read, or names a command or an option that does not exist.
    """
    values = {key: value for key, value in _read(path).items() if value is not None}
    flags = {name: _flags(command) for name, command in group.commands.items()}
    own_flags = {p.name for p in group.params if p.expose_value}  # not --version: that of an adapter is another
    known = own_flags.union(*flags.values())
    common = {key.replace("-", "_"): value for key, value in values.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    unknown = [key for key in common if key not in known] + [name for name in tables if name not in flags]
    defaults: dict[str, dict[str, Any]] = {}
    for name, names in flags.items():
        own = {key.replace("-", "_"): value for key, value in tables.get(name, {}).items()}
        unknown += [f"{name}.{key}" for key in own if key not in names]
        defaults[name] = _defaults(group.commands[name], common | own)
    if unknown:
        raise click.BadParameter(f"{path} sets unknown options: {', '.join(unknown)}", param_hint="--config")
    return defaults | {key: value for key, value in common.items() if key in own_flags}


def _flags(command: click.Command) -> set[str]:
    """The names of its options, and of those of the commands below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return {p.name for p in command.params if p.name}.union(*map(_flags, below))


def _defaults(command: click.Command, values: dict[str, Any]) -> dict[str, Any]:
    """What of ``values`` a command has a flag for, and under their names what the commands below it have."""
    below = command.commands if isinstance(command, click.Group) else {}
    own = {p.name: values[p.name] for p in command.params if p.name in values}
    return own | {name: _defaults(one, values) for name, one in below.items()}


def _read(path: Path) -> dict[str, Any]:
    """A TOML file, or one of YAML, of which JSON is a part."""
    try:
        text = path.read_text(encoding="utf-8")
        values = _parse_toml(text) if path.suffix == ".toml" else _parse_yaml(text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--config") from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path}: holds not settings but a {type(values).__name__}", param_hint="--config")
    return values


def _parse_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(error) from error
