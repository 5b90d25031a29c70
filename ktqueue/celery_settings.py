"""What both ends of Celery agree on: the API that rings and the workers that are woken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection

DRAIN = "ktqueue.drain"
"""The task a bell starts; its one argument is the lane's model."""

DELIVER = "ktqueue.deliver"
"""The task that tells webhooks what is in the outbox."""

DELIVERIES = "deliveries"
"""The Celery queue that senders listen to."""

SWEEP = "ktqueue.sweep"
"""The task that repairs what a death left undone."""

LIGHT = "light"
"""The Celery queue of what is quick, and no model's business."""

RETRY = {"max_retries": 2, "interval_start": 0.0, "interval_step": 0.1, "interval_max": 0.3}
"""Seconds. Without bounds Celery would try to publish for ever."""

Errback: TypeAlias = Callable[[Exception, float], None]

RECONNECT = {"interval_start": 0.25, "interval_step": 0.25, "interval_max": 0.5}
"""Seconds between two tries of a worker, or of beat, to reach a broker that is away. kombu's own grow to 30 s."""

HEALTH_S = 2
"""A connection that said nothing for so long is asked whether it lives: a partition sends no word of itself."""


class PromptConnection(Connection):
    """A connection to the broker that notices its return within about half a second, and tells an outage once."""

    def ensure_connection(self, errback: Errback | None = None, *args: Any, **options: Any) -> Self:
        """As kombu's, but for its pauses. ``errback`` hears of the first failure, not of each."""
        failures = itertools.count()

        def tell_first(error: Exception, interval: float) -> None:
            if errback is not None and next(failures) == 0:
                errback(error, interval)

        return super().ensure_connection(tell_first, *args, **{**RECONNECT, **options})


class PromptAMQP(AMQP):
    """Celery's side of the broker, on such connections."""

    Connection = PromptConnection


def celery_app(redis_url: str, *, current: bool) -> Celery:
    """A Celery app without tasks, its broker the Redis at ``redis_url``; ``current``: the one of this process."""
    app = Celery("ktqueue", amqp=PromptAMQP, set_as_current=current)
    app.conf.update(celery_settings(redis_url))
    return app


def lane_queue(model: str) -> str:
    """The Celery queue that the workers of a lane listen to; in Redis a list of the same name."""
    return f"lane.{model}"


def celery_settings(redis_url: str) -> dict[str, Any]:
    """Celery's configuration, over the Redis at ``redis_url`` (as in KTQ_REDIS_URL)."""
    return {
        "broker_url": broker_url(redis_url),
        "broker_transport_options": {
            **RETRY,
            "socket_connect_timeout": 1.0,
            "socket_timeout": 2.0,
            "health_check_interval": HEALTH_S,
            # kombu would note in Redis what is not acknowledged yet, for an hour. A bell is worth less than that: it is
            # rung again. And an acknowledgement that Redis did not take would leave a worker deaf for ever.
            "ack_emulation": False,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # an outage may be of any length
        "broker_pool_limit": 4,
        "task_publish_retry_policy": RETRY,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        # A parent that acknowledged early would fetch the next bell while its child is busy, unheard by idle workers.
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        # A drain outlives a lost broker: its leases are in SQL, and a bell that comes twice is a no-op.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
    }


def broker_url(redis_url: str) -> str:
    """The same server as kombu spells it: the database in the path, ``redis+socket://`` for a Unix socket."""
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    login, at, address = parts.netloc.rpartition("@")
    if "password" in query:
        login, at = f"{quote(query.get('username', ''), safe='')}:{quote(query['password'], safe='')}", "@"
    if parts.scheme == "unix":
        return f"redis+socket://{login}{at}{parts.path}?virtual_host={query.get('db', '0')}"
    options = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if parts.scheme == "rediss":
        options.setdefault("ssl_cert_reqs", "required")  # kombu's own default is to trust anyone
    database = query.get("db") or parts.path.strip("/") or "0"
    return f"{parts.scheme}://{login}{at}{address}/{database}" + (f"?{urlencode(options)}" if options else "")
