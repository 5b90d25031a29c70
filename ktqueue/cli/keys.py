"""``ktqueue keys``: make, list, limit, revoke and rotate keys, in the database itself, so the first needs none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ktqueue.cli.app import App, json_option
from ktqueue.cli.limits import limit_options, show_used
from ktqueue.cli.numbers import COUNT
from ktqueue.cli.show import compact, pairs, table
from ktqueue.tenant import ALL_SCOPES, CLIENT_SCOPES, DEFAULT_TENANT, Limits, Scope, scopes_named

if TYPE_CHECKING:
    from ktqueue.keys import Keys
    from ktqueue.registry.base import ApiKey

DAY_MS = 86_400_000


@contextmanager
def opened(app: App) -> Iterator[Keys]:
    """The use cases on the database that the settings name. Raises ConfigurationError, StoreUnavailable."""
    from ktqueue.keys import Keys
    from ktqueue.registry.sql import SqlRegistry

    registry = SqlRegistry(app.settings().sql_url)
    try:
        yield Keys(registry)
    finally:
        registry.close()


@click.group()
def keys() -> None:
    """Make and end API keys, in the database of KTQ_DATABASE_URL or KTQ_HOME."""


@keys.command()
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose jobs it sees and submits.")
@click.option("--name", default="", help="For people.")
@click.option("--scope", "scopes", multiple=True, help="What it allows, any number; left out: all but admin.")
@click.option("--admin", is_flag=True, help="Every scope: an operator's key.")
@click.option("--expires-in-days", type=click.IntRange(min=1, max=36_500), help="Left out: never.")
@limit_options
@json_option
@click.pass_obj
def create(
    app: App,
    /,
    *,
    tenant: str,
    name: str,
    scopes: Sequence[str],
    admin: bool,
    expires_in_days: int | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a key; it is shown this once."""
    from ktqueue.keys import KeyRequest

    chosen = ALL_SCOPES if admin else scopes_named(scopes) if scopes else CLIENT_SCOPES
    with opened(app) as use:
        expires_at = None if expires_in_days is None else use.now() + expires_in_days * DAY_MS
        _show(*use.create(KeyRequest(tenant, name, chosen, expires_at, Limits(**limits))), as_json=as_json)


@keys.command(name="list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--limit", type=COUNT, default=100, show_default=True, help="Most keys to show.")
@json_option
@click.pass_obj
def list_keys(app: App, tenant: str | None, limit: int, as_json: bool) -> None:
    """List keys, newest first, the ended ones too."""
    from ktqueue.registry.base import KeyQuery

    with opened(app) as use:
        found, now = use.search(KeyQuery(tenant, limit=limit)), use.now()
    if as_json:
        for key in found:
            click.echo(compact(_document(key)))
        return
    rows = [(key.id, f"ktq_{key.prefix}…", key.tenant, key.name, _scopes(key), _state(key, now)) for key in found]
    table(("id", "begins with", "tenant", "name", "scopes", "state"), rows)


@keys.command(name="set")
@click.argument("key_id", metavar="ID")
@limit_options
@json_option
@click.pass_obj
def set_key(app: App, /, key_id: str, *, as_json: bool, **limits: int | None) -> None:
    """Let these limits hold for a key, and what it was rotated to, within seconds; what is left out is no limit."""
    with opened(app) as use:
        key = use.limit(key_id, Limits(**limits))
    if as_json:
        click.echo(compact(_document(key)))
        return
    pairs({"id": key.id, "tenant": key.tenant, **asdict(key.limits)})


@keys.command()
@json_option
@click.pass_obj
def used(app: App, *, as_json: bool) -> None:
    """Show what each key has of what limits bound; keys that came of one by rotation have it together."""
    show_used(app, "key", as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
@click.pass_obj
def revoke(app: App, key_id: str, as_json: bool) -> None:
    """End a key; within 5 seconds nobody is let in by it."""
    with opened(app) as use:
        key = use.revoke(key_id)
    click.echo(compact(_document(key)) if as_json else f"{key.id}  revoked")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--overlap-seconds", type=click.IntRange(0, 30 * 86_400), default=86_400, show_default=True)
@json_option
@click.pass_obj
def rotate(app: App, key_id: str, overlap_seconds: int, as_json: bool) -> None:
    """Make a new key like this one, which then ends; the new one is shown this once."""
    with opened(app) as use:
        _show(*use.rotate(key_id, overlap_seconds), as_json=as_json)


def _show(key: ApiKey, text: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(compact(_document(key) | {"key": text}))
        return
    pairs({"id": key.id, "tenant": key.tenant, "scopes": _scopes(key), "key": text})


def _document(key: ApiKey) -> dict[str, Any]:
    from ktqueue.times import rfc3339

    instants = {"created_at": key.created_at, "expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "prefix": f"ktq_{key.prefix}",
        "scopes": sorted(key.scopes),
        **{name: None if instant is None else rfc3339(instant) for name, instant in instants.items()},
        **asdict(key.limits),
    }


def _scopes(key: ApiKey) -> str:
    return "all" if key.scopes == frozenset(Scope) else " ".join(sorted(key.scopes))


def _state(key: ApiKey, now: int) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.valid(now) else "expired"


COMMANDS = (keys,)
