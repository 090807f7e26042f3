"""``abstream gateway``: the REST API."""

from typing import TYPE_CHECKING, Any

import click

from ..producer.gateway.config import GatewayConfig
from ..schemas import Shards
from .settings import build, config_options

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from .cli import Common


@click.command(short_help="Serve the REST API.")
@config_options(GatewayConfig)
@click.pass_obj
def gateway(common: "Common", /, **flags: Any) -> None:
    """Serve the REST API: abstracts in, results out; documented at /docs.

    SIGTERM ends streams and finishes requests. Start as many as you like.
    """
    config = build(GatewayConfig, flags)
    from ..producer.gateway.serving import serve

    common.open_log()
    serve(common.url, common.shards, config, [backlog_gauges(common.url, common.shards)])


def backlog_gauges(url: str, shards: Shards) -> "Collector":
    """The backlog, as workers export it too: autoscaling needs it even where no worker runs."""
    from ..consumer.backlog import BacklogGauges
    from .working import broker_at

    return BacklogGauges(broker_at(url, shards))
