"""Commands that are the service: all of it, or one role."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ktqueue.cli.app import App, json_option
from ktqueue.cli.show import compact
from ktqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from ktqueue.settings import Settings


@click.command()
@click.pass_obj
def up(app: App) -> None:
    """Serve everything here, in the foreground, until Ctrl-C."""
    from ktqueue.supervisor import up as serve

    # Somebody waits at a terminal for it to end.
    sys.exit(serve(app.settings(grace_seconds="5")))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def worker(app: App, models: tuple[str, ...]) -> None:
    """Run the models' workers, one for each lane: these models', or all."""
    from ktqueue.supervisor import worker as serve

    sys.exit(serve(app.settings(), models))


@click.command()
@click.pass_obj
def demo(app: App) -> None:
    """Show the service at work on real models, on a stack of its own."""
    from ktqueue.demo import demo as show

    sys.exit(show(app.settings()))


@click.command()
@click.pass_obj
def api(app: App) -> None:
    """Serve the HTTP API."""
    _become(app, "api")


@click.command()
@click.pass_obj
def light(app: App) -> None:
    """Run the light worker: the sweep, and whatever needs no model."""
    _counted(app, "light")


@click.command()
@click.pass_obj
def deliver(app: App) -> None:
    """Run the sender: it tells webhooks what they asked to be told."""
    _counted(app, "deliver")


@click.command()
@click.pass_obj
def beat(app: App) -> None:
    """Run Celery beat, which starts what is periodic."""
    _become(app, "worker", "beat")


@click.command()
@json_option
@click.pass_obj
def migrate(app: App, as_json: bool) -> None:
    """Make the database's tables, or bring them up to date."""
    from ktqueue.migrate import upgrade

    settings = app.settings()
    _make_home(settings)
    upgrade(settings.sql_url)
    dialect = settings.sql_url.partition(":")[0].partition("+")[0]
    click.echo(compact({"database": dialect, "revision": "head"}) if as_json else f"{dialect} is up to date")


def _counted(app: App, role: str) -> None:
    """Be this role; with someone beside it who tells what it counts, if there is a port for that."""
    from ktqueue.supervisor import counted_role

    settings = app.settings()
    if settings.metrics_port:
        sys.exit(counted_role(settings, role))
    _become(app, "worker", role)


def _become(app: App, *module: str) -> None:
    """Let this process go on as ``python -m module``: what signals it then gets are the module's."""
    app.become(sys.executable, [sys.executable, "-m", *module])


def _make_home(settings: Settings) -> None:
    if settings.database_url:
        return
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"KTQ_HOME: {settings.home}: {error.strerror}") from error


COMMANDS = (up, api, worker, light, deliver, beat, migrate, demo)
