"""What the dashboard shows: rows of panels, each a question that an operator has.

Gauges that every worker asks Redis for come through recording rules, which take the largest; counters are added up.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        unit: as Grafana names it.
        queries: legend, with {{label}} for a label's value, to PromQL.
        says: what it means, where that is not plain.
        single: one number, the last, in place of a curve.
        steps: values from which it is yellow, and red; where the first is the larger, below which.
    """

    title: str
    unit: str
    queries: dict[str, str]
    says: str = ""
    single: bool = False
    stacked: bool = False
    steps: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...] = field(default=())


FIRING = 'count(ALERTS{alertstate="firing", alertname=~"Abstream.*"}) or vector(0)'
READY = "avg(min by (instance) (abstream_ready))"
OLDEST = 'max(abstream:oldest_unanswered_age_seconds{lane="interactive"})'
ADAPTERS_LIVE = "count(count by (digest) (abstream_adapter_info))"


def _number(title: str, unit: str, query: str, steps: tuple[float, float] | None = None, says: str = "") -> Panel:
    return Panel(title, unit, {"": query}, says, single=True, steps=steps)


def _quantiles(metric: str, by: str = "") -> dict[str, str]:
    rate = f"sum by (le{', ' + by if by else ''}) (rate(abstream_{metric}_bucket[$__rate_interval]))"
    legend = f"{{{{{by}}}}}, " if by else ""
    return {f"{legend}p{percent}": f"histogram_quantile({percent / 100}, {rate})" for percent in (50, 95, 99)}


def _mean(metric: str, by: str = "") -> str:
    return f"{_rate(f'{metric}_sum', by)} / ({_rate(f'{metric}_count', by)} > 0)"


def _increase(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (increase(abstream_{metric}[$__rate_interval]))"


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate(abstream_{metric}[$__rate_interval]))"


IS_IT_WELL = Row(
    "Is it well?",
    (
        _number("Alerts firing", "none", FIRING, (1, 2)),
        _number("Workers", "none", "sum(abstream_alive)", (1, 0), "That make progress."),
        _number("Ready", "percentunit", READY, (1, 0.5), "Workers that pass every check of /readyz."),
        _number("Oldest unanswered", "s", OLDEST, (60, 300), "Of the interactive lane."),
        _number("Drained in", "s", "abstream:drain_forecast_seconds", says="All that waits, at the speed of now."),
        _number("Refused", "percentunit", "abstream:refusals:share15m", (0.01, 0.05), "Of the last 15 minutes."),
        _number("Adapters in service", "none", ADAPTERS_LIVE, (2, 3), "Two for longer than a switch: see the fleet."),
        _number("Redis memory", "percentunit", "abstream:redis_memory:share", (0.7, 0.85), "Of maxmemory, if any."),
    ),
)

SPEED = Row(
    "Throughput and latency",
    (
        Panel(
            "Abstracts per second",
            "ops",
            {
                "received, {{lane}}": _rate("abstracts_received_total", "lane"),
                "answered": _rate("end_to_end_seconds_count"),
                "refused": _rate("refusals_total"),
            },
        ),
        Panel("From submission to answer", "s", _quantiles("end_to_end_seconds")),
        Panel("From submission to a worker's hands", "s", _quantiles("queue_wait_seconds")),
        Panel(
            "Where a worker's time goes",
            "percentunit",
            {
                "tokenize": _rate("tokenize_seconds_sum") + " / sum(abstream_alive)",
                "compute": _rate("inference_seconds_sum") + " / sum(abstream_alive)",
                "commit": _rate("commit_seconds_sum") + " / sum(abstream_alive)",
            },
            "Share of the wall clock, mean of the workers. The three run at the same time.",
        ),
    ),
)

BACKLOG = Row(
    "Backlog and age",
    (
        Panel(
            "Unanswered",
            "short",
            {
                "{{lane}}, nobody has": "max by (lane) (abstream_stream_lag)",
                "{{lane}}, in hand": "max by (lane) (abstream_stream_pending)",
            },
            stacked=True,
        ),
        Panel("Age of the oldest", "s", {"{{lane}}": "abstream:oldest_unanswered_age_seconds"}),
        Panel(
            "Taken over, lost, doubled",
            "short",
            {
                "taken over": _increase("redeliveries_total"),
                "commits lost to another worker": _increase("commits_lost_total"),
                "submitted again": _increase("duplicates_total"),
                "calls repeated, Redis away": _increase("redis_reconnects_total"),
            },
        ),
        Panel(
            "Refusals",
            "short",
            {"{{reason}}": _increase("refusals_total", "reason")},
            stacked=True,
        ),
        Panel("Redis memory", "bytes", {"{{kind}}": "max by (kind) (abstream_redis_memory_bytes)"}),
        Panel(
            "Subscribers behind",
            "s",
            {"{{group}}, {{stream}}": "max by (stream, group) (abstream_subscriber_behind_seconds)"},
        ),
    ),
)

BATCHES = Row(
    "Batches and GPU",
    (
        Panel("Abstracts in a batch", "short", _quantiles("batch_abstracts")),
        Panel("Tokens in a batch", "short", _quantiles("batch_tokens")),
        Panel("One forward pass", "s", _quantiles("inference_seconds")),
        Panel("Share that is no padding", "percentunit", {"mean": _mean("batch_fill_ratio")}),
        Panel("Tokens per second", "short", {"{{instance}}": _rate("batch_tokens_sum", "instance")}, stacked=True),
        Panel("GPU memory", "bytes", {"{{instance}}, {{kind}}": "abstream_gpu_memory_bytes"}, "Empty on CPUs."),
    ),
)

ADAPTERS = Row(
    "Adapters and fleet",
    (
        Panel(
            "Workers by adapter",
            "short",
            {"{{name}} {{version}}": "count by (name, version, digest) (abstream_adapter_info)"},
            stacked=True,
        ),
        Panel("Updates answered", "short", {"{{result}}": _increase("adapter_switches_total", "result")}),
        Panel("Steps of a switch", "s", {"{{phase}}": _mean("adapter_switch_seconds", "phase")}),
    ),
)

ANSWERS = Row(
    "Answers and drift",
    (
        Panel(
            "Share of each label",
            "percentunit",
            {"{{question}}: {{label}}": "abstream:label:share1h"},
            "Of the last hour.",
        ),
        Panel(
            "For review",
            "percentunit",
            {"last hour": "abstream:review:share1h", "last week": "abstream:review:share7d"},
        ),
        Panel("Confidence", "percentunit", _quantiles("confidence", "question")),
        Panel(
            "Drift",
            "none",
            {
                "{{question}} {{what}}": "abstream:drift:psi",
                "{{question}} {{what}}, by chance": "abstream:drift:psi_by_chance",
            },
            "Population stability index of the last 2 000 answers of each worker against the adapter's validation. "
            "Over 0.25 is large; under what chance makes is nothing. Validation data chosen by hand has other shares "
            "of labels from the first day on.",
        ),
        Panel(
            "Agreement with MeSH",
            "percentunit",
            {"last day": "abstream:mesh_agreement:share1d"},
            "Of abstracts that came with headings: Cancer where one is of the Neoplasms tree. A silver standard.",
        ),
    ),
)

ROWS = (IS_IT_WELL, SPEED, BACKLOG, BATCHES, ADAPTERS, ANSWERS)
