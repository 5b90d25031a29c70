"""/openapi.json, and /docs, where / leads: Swagger UI from files on this machine, so it works without a network."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import orjson
from flask import Flask, redirect, send_from_directory
from werkzeug.wrappers import Response as AnyResponse

from api.answers import JSON, Answer
from api.openapi import document
from api.services import ApiServices
from ktqueue.errors import ConfigurationError

PACKAGE = "flask_openapi3_swagger"
PAGE = b"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>ktqueue</title>
  <link rel="icon" href="/docs/images/swagger.svg">
  <link rel="stylesheet" href="/docs/css/swagger-ui.css">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="/docs/js/swagger-ui-bundle.js"></script>
  <script>
    SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true})
  </script>
</body>
</html>
"""


class Docs:
    """The description of this API, for machines and for people."""

    def __init__(self, services: ApiServices) -> None:
        self._catalogue = services.catalogue
        self._files = _swagger_files()

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule("/", "home", self.home, methods=["GET"])
        app.add_url_rule("/openapi.json", "openapi", self.openapi, methods=["GET"])
        app.add_url_rule("/docs", "docs", self.page, methods=["GET"])
        app.add_url_rule("/docs/<path:name>", "docs_file", self.file, methods=["GET"])

    def home(self) -> AnyResponse:
        """For people who open the address that the service tells."""
        return redirect("/docs")

    def openapi(self) -> Answer:
        """The OpenAPI document."""
        return Answer(self._document, 200, content_type=JSON)

    def page(self) -> Answer:
        """Swagger UI."""
        return Answer(PAGE, 200, content_type="text/html; charset=utf-8")

    def file(self, name: str) -> AnyResponse:
        """A file of Swagger UI."""
        return send_from_directory(self._files, name, max_age=86_400)

    @cached_property
    def _document(self) -> bytes:
        return orjson.dumps(document(self._catalogue))


def _swagger_files() -> Path:
    """Where the package keeps them; it is not imported, for it would bring a framework along."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package {PACKAGE} is not installed")
    return Path(spec.submodule_search_locations[0]) / "templates" / "swagger"
