"""What both ends of Celery agree on: the API that rings and the workers that are woken. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

DRAIN = "ktqueue.drain"
"""The task a bell starts; its one argument is the lane's model."""

RETRY = {"max_retries": 2, "interval_start": 0.0, "interval_step": 0.1, "interval_max": 0.3}
"""Seconds. Without bounds Celery would try to publish for ever."""


def lane_queue(model: str) -> str:
    """The Celery queue that the workers of a lane listen to; in Redis a list of the same name."""
    return f"lane.{model}"


def celery_settings(redis_url: str) -> dict[str, Any]:
    """Celery's configuration, over the Redis at ``redis_url`` (as in KTQ_REDIS_URL)."""
    return {
        "broker_url": broker_url(redis_url),
        "broker_transport_options": {**RETRY, "socket_connect_timeout": 1.0, "socket_timeout": 5.0},
        "broker_connection_retry_on_startup": True,
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
