"""How abstream logs: events with fields on stderr, for people or for machines. No line holds an abstract's text."""

import logging
import sys

import structlog

from .settings import LogFormat

EVENTS = {
    # workers
    "worker_ready": "the first abstract is read next; with what it answers",
    "worker_draining": "asked to end: no more is read",
    "worker_left": "ended, with nothing in hand",
    "worker_stuck": "a batch does not end; the process goes down, for something to start again",
    "batch_committed": "answers were published, or why not; with the traces that the abstracts came in",
    "inference_failed": "the engine failed on a batch: each abstract of it is tried alone",
    "entries_released": "what was in hand at the end went back to the other workers",
    "entries_not_released": "it did not: others take it over when its lease ends",
    "entries_lost": "somebody removed abstracts before a worker read them",
    "group_recreated": "Redis was emptied, or a stream deleted",
    "consumers_reaped": "workers long gone were removed from the group",
    "upkeep_put_off": "trimming or the like failed; it is tried again in the next minute",
    "shards_served": "the workers share the shards out anew",
    "not_signed_off": "the others miss this worker only after a while",
    "metrics_served": "the port of /metrics, /healthz and /readyz",
    "endpoint_failed": "a request to that port failed",
    # Redis
    "redis_away": "Redis does not answer or refuses; it is waited for",
    "redis_back": "it answers again",
    "redis_may_evict": "its maxmemory-policy lets it throw streams away: set noeviction",
    "server_clock_set_back": "the clock of Redis fell by more than a lease: every lease of the lane begins anew",
    # adapters
    "adapter_activated": "another adapter answers from now on",
    "adapter_rejected": "an announced adapter is not served, and why",
    "adapter_failed": "what it is about an adapter is an error of this program",
    "adapter_misbehaves": "it left its bounds on live abstracts and is rolled back",
    "adapter_still_out_of_reach": "its store does not answer; it is asked again",
    "adapter_copy_damaged": "a local copy was fetched anew",
    "adapter_update_skipped": "an entry of the adapters' stream that this version cannot read",
    "shadow_begun": "a candidate scores beside the live adapter",
    "shadow_seen": "how often both differ",
    "shadow_failed": "the candidate failed on abstracts; the live one serves on",
    "dtype_not_admitted": "eight bits were asked for, and nothing shows that accuracy keeps",
    # replicas
    "replica_started": "a process of `work --replicas` was started",
    "replica_ended": "one ended",
    "replica_pauses": "one ends again and again: it is started later",
    "replica_wedged": "one makes no progress and is killed",
    # gateway
    "gateway_listens": "requests are answered from now on",
    "gateway_ending": "asked to end: streams and waiting requests end first",
    "few_connections": "the system allows fewer connections than are wanted",
    "request_failed": "a request failed by an error of this program",
    "tokens_read": "the file of tokens, at the start and when it changes",
    "tokens_unusable": "it cannot be read: the tokens of before stay good",
    "standing_not_noted": "what became of an abstract was not noted for its sender's question",
    "results_not_noted": "nor what became of several; it is tried again",
    # training
    "training": "what is learned from, and on which base",
    "records_left_out": "data that was not used, and why",
    "base_teaches": "what share of each question's targets the base's own answers are",
    "epoch_ended": "with its loss on the validation data",
    "run_resumed": "the run goes on from a checkpoint",
    "checkpoint_ignored": "a checkpoint is not of this run, or broken",
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
