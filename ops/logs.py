"""How abstream logs: events with fields on stderr, for people or for machines. No line holds an abstract's text."""

import logging
import sys

import structlog

from .settings import LogFormat

EVENTS = {
    # workers
    "worker_ready": "reading begins; with the model that answers",
    "worker_draining": "asked to end: nothing more is read",
    "worker_left": "ended, with nothing in hand",
    "worker_stuck": "a batch does not end, so the process does: something must start it again",
    "batch_committed": "answers were published or not, by outcome; with the traces that the abstracts came in",
    "inference_failed": "the engine failed on a batch: each abstract of it is tried alone",
    "entries_released": "what was in hand at the end was handed back to the other workers",
    "entries_not_released": "what was in hand at the end was not handed back: others take it over later",
    "entries_lost": "somebody removed abstracts before a worker read them",
    "group_recreated": "Redis was emptied, or a stream deleted",
    "consumers_reaped": "workers long gone were removed from the group",
    "upkeep_put_off": "trimming or the like failed; it is tried again in the next period",
    "shards_served": "the shards that this worker serves from now on",
    "not_signed_off": "the other workers learn only after some seconds that this one has left",
    "metrics_served": "the port of /metrics, /healthz and /readyz",
    "endpoint_failed": "a request to that port failed",
    # Redis
    "redis_away": "Redis does not answer or refuses; it is waited for",
    "redis_back": "Redis answers again",
    "redis_may_evict": "its maxmemory-policy lets it throw streams away: set noeviction",
    "server_clock_set_back": "the clock of Redis fell by more than a lease: every lease of the lane begins anew",
    # adapters
    "adapter_activated": "another adapter answers from now on",
    "adapter_rejected": "an announced adapter is not served, and why",
    "adapter_failed": "an announced adapter is not served because of an error in this program",
    "adapter_misbehaves": "it left its bounds on live abstracts and is rolled back",
    "adapter_still_out_of_reach": "its store does not answer; it is asked again",
    "adapter_copy_damaged": "a local copy was fetched anew",
    "adapter_update_skipped": "an entry of the adapters' stream that this version cannot read",
    "shadow_begun": "a candidate scores beside the live adapter",
    "shadow_seen": "how often the candidate and the live adapter differ",
    "shadow_failed": "the candidate failed on abstracts; the live one serves on",
    "dtype_not_admitted": "eight bits were asked for, but no measurement shows that accuracy holds: bfloat16 is served",
    # replicas
    "replica_started": "a process of `work --replicas` was started",
    "replica_ended": "a process of `work --replicas` ended",
    "replica_pauses": "a replica failed, and is started again after a pause",
    "replica_wedged": "a replica makes no progress and is killed",
    # gateway
    "gateway_listens": "requests are answered from now on",
    "gateway_ending": "asked to end: streams and waiting requests end first",
    "few_connections": "the system allows fewer connections than are wanted",
    "request_failed": "a request failed because of an error in this program",
    "tokens_read": "the file of tokens, at the start and when it changes",
    "tokens_unusable": "the file of tokens cannot be read: those of before stay valid",
    "standing_not_noted": "the status of an abstract was not recorded, so that its sender cannot be told of it",
    "results_not_noted": "the status of several abstracts was not recorded; it is tried again",
    # training
    "training": "what is learned from, and on which base",
    "records_left_out": "data that was not used, and why",
    "base_teaches": "what share of each question's targets the base's own answers are",
    "epoch_ended": "with its loss on the validation data",
    "run_resumed": "the run goes on from a checkpoint",
    "checkpoint_ignored": "a checkpoint is of another run, which is not resumed",
}
"""Name -> what it means. A line of the log has one of these as its ``event``; people search and alert on them."""


def configure(log_format: LogFormat) -> None:
    """Set structlog up, once, for the whole process."""
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if log_format == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
