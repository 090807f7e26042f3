"""``abstream COMMAND``: every entry point. Data goes to stdout, logs and bars to stderr.

Exit codes: 0 done, 1 error, 2 usage, 3 done but some entries were refused, 4 a gate failed, 5 Redis out of reach.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..producer.defaults import DEFAULT_URL, MAX_BACKLOG
from ..producer.formats import FORMATS
from ..schemas import Shards
from ..schemas.shards import MAX_SHARDS
from ..schemas.streams import LANES, OUTPUTS
from .adapters import adapters
from .benching import bench
from .exits import DONE, ERROR, exit_code_of, explain, say
from .exporting import schema
from .gateway import gateway
from .learning import admit, evaluate, train
from .refusals import refusals
from .settings import (
    DEFAULT_MODEL,
    LogFormat,
    adapter_cache,
    adapter_folder,
    adapter_options,
    check_redis_url,
    engine_options,
    intake_options,
    option,
    read_config_file,
    retention_options,
    shipped_model,
    worker_name,
)
from .streams import streams


@dataclass(frozen=True)
class Common:
    """The flags before the command."""

    redis_url: str | None
    shards: Shards
    log_format: LogFormat
    tracing: bool

    @property
    def url(self) -> str:
        return self.redis_url or DEFAULT_URL

    @property
    def namespace(self) -> str:
        return self.shards.namespace

    def open_log(self) -> None:
        """Before anything is logged: structlog's own place is stdout, where the data goes."""
        from .logs import configure

        configure(self.log_format)


def _take_defaults(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path:
        assert isinstance(context.command, click.Group)
        context.default_map = read_config_file(path, context.command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@option("redis-url", env=("REDIS_URL",), help=f"Default: {DEFAULT_URL}; demo starts its own server.")
@option(
    "redis-url-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the URL: keeps a password out of arguments and environment, which others can see.",
)
@option("namespace", default="abstream", help="Prefix of every key.")
@option(
    "shards", type=click.IntRange(1, MAX_SHARDS), default=1, help="Number of shards that the namespace is spread over."
)
@option("log-format", type=click.Choice(["console", "json"]), default="console", help="Format of the log, on stderr.")
@option("tracing", is_flag=True, help="Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT (abstream[otel]).")
@option(
    "config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML or YAML file of defaults.",
    is_eager=True,  # before the flags that it has defaults of
    expose_value=False,
    callback=_take_defaults,
)
@click.version_option(package_name="abstream")
@click.pass_context
def cli(
    context: click.Context,
    redis_url: str | None,
    redis_url_file: Path | None,
    namespace: str,
    shards: int,
    log_format: Any,
    tracing: bool,
) -> None:
    """Read abstracts from a Redis stream, and publish which type of cancer, if any, each is about."""
    try:
        names = Shards(namespace, shards)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--namespace") from error
    if redis_url and redis_url_file:
        raise click.UsageError("--redis-url and --redis-url-file are both set, perhaps in the environment: give one")
    url = redis_url_file.read_text(encoding="utf-8").strip() if redis_url_file else redis_url
    if url:
        check_redis_url(url)
    context.obj = Common(url, names, log_format, tracing)
    if tracing:
        from .tracing import start

        start(str(context.invoked_subcommand))


@cli.command(short_help="Show the whole system, on this machine alone.")
@option(
    "data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of your own abstracts; the bundled sample by default.",
)
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    help="Folder for summary.json and logs.",
)
@option("model", default=DEFAULT_MODEL, help="A shipped model, a local Phi-3 folder, or a Hugging Face id.")
@click.pass_obj
def demo(common: Common, data: Path | None, out: Path, model: str) -> None:
    """Run the whole system: two workers, one of them killed, every abstract answered once."""
    from .demo import run

    sys.exit(DONE if run(common.redis_url, data, out, model) else ERROR)


@cli.command(short_help="Run a worker, until SIGTERM.")
@engine_options
@option("name", default=worker_name, show_default="host and process", help="Unique among the living workers.")
@option(
    "read-count",
    type=click.IntRange(min=1),
    default=256,
    help="Most entries in one read; fewer if they are large or the engine is slow.",
)
@option(
    "lease-seconds", type=click.FloatRange(min=0.1), default=15.0, help="Silence after which other workers take over."
)
@option(
    "max-deliveries",
    type=click.IntRange(min=1),
    default=5,
    help="After so many, an entry is refused with its original.",
)
@option(
    "batch-deadline-seconds",
    type=click.FloatRange(min=0.1),
    default=300.0,
    help="A batch that takes longer ends the worker, and is retried in smaller parts.",
)
@option("drain-seconds", type=click.FloatRange(min=0), default=30.0, help="Time for the current batch at SIGTERM.")
@retention_options
@intake_options
@adapter_options
@option("metrics-port", type=click.IntRange(0, 65535), help="Serve /metrics, /healthz and /readyz; 0: a free port.")
@option("burst", is_flag=True, help="Stop when nothing is left to read.")
@option(
    "replicas", type=click.IntRange(min=1), default=1, help="Number of processes, each on a GPU or a share of the CPU."
)
@click.option("--slot", "slots", type=int, multiple=True, hidden=True)  # from whoever started it as a replica
@click.pass_obj
def work(common: Common, /, replicas: int, **flags: Any) -> None:
    """Run a worker, which reads, classifies and publishes until SIGTERM.

    Without --adapter it serves the adapter that was announced last, and switches to each that follows.
    """
    common.open_log()
    if replicas > 1:
        from .replicas import supervise, this_command

        sys.exit(supervise(replicas, flags["metrics_port"], *this_command(replicas, flags["device"], flags["threads"])))
    from .working import run_worker

    _run(lambda: run_worker(common.url, common.shards, flags, tracing=common.tracing))


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@option("format", type=click.Choice(FORMATS), default="auto", help="auto: by name, then by content.")
@option("lane", type=click.Choice(LANES), default="interactive", help="bulk waits while there is interactive work.")
@option("source", help="Identifies an abstract together with its id; the same pair is answered once.")
@option("resume", is_flag=True, help="Continue the last run with the same files; confirmed abstracts are not resent.")
@option(
    "max-backlog",
    type=click.IntRange(min=0),
    default=MAX_BACKLOG,
    help="Send nothing while this many are waiting; 0: no limit.",
)
@option(
    "wait-for-room",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=300.0,
    help="Longest wait for the backlog to shrink.",
)
@option("wait-replicas", type=click.IntRange(min=0), default=0, help="Replicas of Redis that must confirm a publish.")
@option("wait", is_flag=True, help="Wait for the results and print them.")
@option("patience-seconds", type=click.FloatRange(min=0.1), default=60.0, help="Longest wait without a result.")
@click.pass_obj
def publish(
    common: Common, /, paths: tuple[str, ...], wait: bool, patience_seconds: float, format: Any, **terms: Any
) -> None:
    """Publish files (or - for standard input) to the stream.

    JSON lines, CSV, TSV, Excel, RIS, MEDLINE (.nbib) and PubMed XML, gzipped or not. If interrupted, the same command
    with --resume continues, within seven days.
    """
    if terms["resume"] and "-" in paths:
        raise click.UsageError("--resume cannot read standard input again: give a file")
    from .publishing import Terms
    from .publishing import publish as publish_files

    terms["wait_for_room_seconds"] = terms.pop("wait_for_room")
    patience = patience_seconds if wait else None
    tally = _run(lambda: publish_files(common.url, common.shards, list(paths), Terms(format, **terms), patience))
    click.echo(tally.summary("answered" if wait else "published"), err=True)
    sys.exit(tally.exit_code)


@cli.command()
@click.argument("stream", type=click.Choice(OUTPUTS), default="predictions")
@option("since", help="An entry id (0 is the beginning) or a time (ISO 8601); now by default.")
@option("until-idle", type=click.FloatRange(min=0), help="Stop after so many seconds without an event.")
@click.pass_obj
def follow(common: Common, stream: Any, since: str | None, until_idle: float | None) -> None:
    """Print a stream as JSON lines."""
    from .following import follow as follow_stream

    _run(lambda: follow_stream(common.url, common.shards, stream, since, until_idle))


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="Output file: .jsonl, .csv, .tsv or .ris; - for standard output.")
@option(
    "format", type=click.Choice(FORMATS), default="auto", help="Format of the input; auto: by name, then by content."
)
@engine_options
@click.pass_obj
def classify(
    common: Common, /, paths: tuple[str, ...], out: str, format: Any, max_batch_tokens: int, **flags: Any
) -> None:
    """Classify files (or - for standard input) without Redis."""
    from .files import classify_files
    from .working import served_engine

    common.open_log()
    tally = classify_files(lambda: served_engine(flags), list(paths), format, out, max_batch_tokens)
    click.echo(tally.summary("classified"), err=True)
    sys.exit(tally.exit_code)


@cli.command(short_help="Rerun a past prediction, and compare.")
@click.argument("event_id")
@option("data", multiple=True, metavar="FILE", help="File with the abstract, if its entry was trimmed; repeatable.")
@option("json", is_flag=True, help="Print JSON.")
@engine_options
@click.pass_obj
def reproduce(common: Common, /, event_id: str, data: tuple[str, ...], json: bool, **flags: Any) -> None:
    """Rerun a past prediction from its receipt and compare; exit code 1 if it differs.

    EVENT_ID is the id of the prediction or of its abstract. The adapter is found by its digest, or given by --adapter.
    """
    from .reproducing import reproduce as rerun
    from .reproducing import shown
    from .working import load_engine

    common.open_log()
    folder = flags["adapter"] if flags["adapter"] not in ("auto", "none") else None
    found = rerun(
        common.url,
        common.shards,
        event_id,
        data,
        folder,
        lambda receipt, adapter: load_engine(
            flags | {"adapter": "none", "engine": receipt.engine, "dtype": receipt.dtype}, adapter=adapter
        ),
    )
    click.echo(shown(found, as_json=json))
    sys.exit(DONE if found.same else ERROR)


@cli.command(short_help="Find what is wrong here, and say how to fix it.")
@option("model", default=DEFAULT_MODEL, help="A shipped model, a local Phi-3 folder, or a Hugging Face id.")
@option("adapter", default="auto", metavar="FOLDER|auto|none", help="auto: the one included with the model.")
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(common: Common, model: str, adapter: str, json: bool) -> None:
    """Check Python, torch, GPU, Redis, model and adapter, and say how to fix what is wrong."""
    from .doctor import examine

    folder = adapter_folder(adapter, model, own_task=False)
    model = shipped_model(model)
    sys.exit(examine(common.url, common.shards, model, folder, adapter_cache(), as_json=json))


@cli.command(short_help="Kill workers and Redis under load, and count every abstract.")
@option("rows", multiple=True, metavar="NAME", help="Run only these rows; all by default.")
@option("abstracts", type=click.IntRange(min=1), default=20_000, help="Abstracts per row; fewer mean fewer faults.")
@option("workers", type=click.IntRange(min=1), default=3, help="Workers that share the load.")
@option("seed", type=int, default=1, help="Seed of the moments, victims and texts.")
@option("quick", is_flag=True, help="Same as --abstracts 1000.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/chaos"),
    help="Folder for the workers' logs.",
)
def chaos(rows: tuple[str, ...], abstracts: int, workers: int, seed: int, quick: bool, out: Path) -> None:
    """Kill, freeze and cut off its own workers and Redis; check that nothing is lost or answered twice."""
    from .chaos.program import NAMES, run
    from .chaos.scene import Scale

    if unknown := set(rows) - set(NAMES):
        raise click.UsageError(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    passed = run(rows, Scale(1_000 if quick else abstracts, workers, seed), out)
    sys.exit(DONE if passed else ERROR)


for _command in (train, evaluate, admit, adapters, gateway, refusals, schema, streams, bench):
    cli.add_command(_command)


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def main() -> None:
    """Run the command line; what goes wrong is said in one line, with the exit code of the contract."""
    try:
        cli(prog_name="abstream")
    except Exception as error:
        if (code := exit_code_of(error)) is None:
            raise
        say(explain(error))
        sys.exit(code)
