"""The Flask application: resources over use cases that are passed in."""

from __future__ import annotations

import logging
from pathlib import Path

from flask import Flask

from api import auth, errors
from api.answers import Answer
from api.bare import Bare
from api.bulk import Bulk
from api.catalogue import CatalogueResource
from api.deliveries import Deliveries
from api.docs import Docs
from api.events import JobEvents
from api.foreign import foreign
from api.health import HealthResource
from api.http_metrics import HttpMetrics
from api.jobs import Jobs
from api.keys import Keys
from api.lanes import Lanes
from api.metrics import Metrics
from api.operations import OPERATIONS
from api.services import ApiServices
from api.tenants import Tenants
from api.usage import Usage
from api.waits import Waits
from api.webhook_endpoints import WebhookEndpoints
from api.webhook_keys import WebhookKeys
from api.workers import Workers
from ktqueue.settings import Settings


def create_app(services: ApiServices, counted: Path | None = None) -> Flask:
    """The application, on use cases that are already wired. ``counted`` is the folder that processes count in."""
    app = Bare("api", static_folder=None)
    app.response_class = Answer
    # A path is taken as it was sent: no redirects to one that looks alike.
    app.url_map.merge_slashes = False
    HttpMetrics().register(app)
    errors.register(app)
    waits = Waits(services.settings.max_waits)
    Jobs(services, waits).register(app)
    JobEvents(services, waits).register(app)
    Bulk(services).register(app)
    WebhookEndpoints(services).register(app)
    Deliveries(services).register(app)
    WebhookKeys(services).register(app)
    CatalogueResource(services).register(app)
    Lanes(services).register(app)
    Workers(services).register(app)
    Usage(services).register(app)
    HealthResource(services).register(app)
    Metrics(services, counted).register(app)
    Docs(services).register(app)
    Keys(services).register(app)
    Tenants(services).register(app)
    auth.register(app, services.access, services.quotas, OPERATIONS, foreign(services.settings.hosts))
    return app


def log_to_stderr(settings: Settings) -> None:
    """Lines on standard error, from ``settings.log_level`` up."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=settings.log_level.upper())
