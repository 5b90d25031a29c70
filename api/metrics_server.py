"""``python -m api.metrics_server``: /metrics of a worker that has no API beside it, its settings from the environment.

One client at a time, for there is only Prometheus; no keys.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from api.exposition import Machine, Shared, registry_of
from ktqueue.errors import ConfigurationError
from ktqueue.ledgers import FOLDER
from ktqueue.process import die_with_parent
from ktqueue.settings import PREFIX, Settings

PATIENCE_S = 5.0


class _Handler(WSGIRequestHandler):
    """Waits for nobody for ever, and says nothing."""

    timeout = PATIENCE_S

    def log_message(self, *_: object) -> None:
        """Prometheus asks all the time."""


class _Six(WSGIServer):
    """On IPv6."""

    address_family = socket.AF_INET6


def main(settings: Settings, folder: Path) -> None:
    """Serve until told to stop. Raises ConfigurationError if nothing can listen there."""
    app = make_wsgi_app(registry_of([Machine(), Shared(folder)]))
    kind = _Six if ":" in settings.host else WSGIServer
    try:
        server = make_server(settings.host, settings.metrics_port, app, kind, _Handler)
    except OSError as error:
        place = f"{settings.host}:{settings.metrics_port}"
        raise ConfigurationError(f"{PREFIX}METRICS_PORT: can't listen on {place}: {error.strerror}") from error
    server.serve_forever()


if __name__ == "__main__":
    try:
        environment = Settings.from_env(os.environ)
        die_with_parent(environment.grace_seconds)
        main(environment, Path(os.environ[FOLDER]))
    except ConfigurationError as error:
        sys.exit(f"ktqueue metrics: {error}")
