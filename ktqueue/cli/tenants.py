"""``ktqueue tenants``: weights and limits, in the database itself, as ``ktqueue keys``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from ktqueue.cli.app import App, json_option
from ktqueue.cli.keys import opened, rates
from ktqueue.cli.show import compact, pairs, table
from ktqueue.tenant import Rates, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = click.IntRange(min=1)


@click.group()
def tenants() -> None:
    """Say what part of a lane tenants get, and how much they may ask, in the settings' database."""


@tenants.command(name="set")
@click.argument("name")
@click.option("--weight", type=click.FloatRange(min=0, max=1_000, min_open=True), default=1.0, show_default=True)
@rates
@click.option("--queued-jobs", type=LIMIT, help="Most jobs that wait.")
@click.option("--unfinished-jobs", type=LIMIT, help="Most jobs that wait or run.")
@click.option("--queued-bytes", type=LIMIT, help="Most bytes of input, params and metadata of jobs that wait.")
@click.option("--stored-bytes", type=LIMIT, help="Most bytes of those and of results, of all jobs that are kept.")
@click.option("--running-jobs", type=LIMIT, help="Most jobs that run at once, of all models; others wait.")
@json_option
@click.pass_obj
def set_tenant(
    app: App,
    *,
    name: str,
    weight: float,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    queued_jobs: int | None,
    unfinished_jobs: int | None,
    queued_bytes: int | None,
    stored_bytes: int | None,
    running_jobs: int | None,
    as_json: bool,
) -> None:
    """Let this hold for a tenant, within seconds; what is left out is no limit."""
    limits = Rates(requests_per_minute, tokens_per_minute)
    counts = queued_jobs, unfinished_jobs, queued_bytes, stored_bytes, running_jobs
    wanted = Tenant(name, weight, limits, *counts)
    with opened(app) as use:
        use.put_tenant(wanted)
    if as_json:
        click.echo(compact(_document(wanted)))
        return
    pairs(_document(wanted))


@tenants.command(name="list")
@json_option
@click.pass_obj
def list_tenants(app: App, as_json: bool) -> None:
    """List the tenants of whom something is written down."""
    with opened(app) as use:
        found = [_document(tenant) for tenant in use.tenants()]
    if as_json:
        for document in found:
            click.echo(compact(document))
        return
    headings = [name.replace("_", " ") for name in _document(Tenant(""))]
    table(headings, [tuple(document.values()) for document in found])


@tenants.command()
@json_option
@click.pass_obj
def used(app: App, *, as_json: bool) -> None:
    """Show what each tenant has of what limits bound: jobs, and their bytes."""
    from ktqueue.quotas import Used, used_of
    from ktqueue.store.sql import SqlStore

    with closing(SqlStore(app.settings().sql_url)) as store:
        found = [{"tenant": census.tenant, **asdict(used_of(census))} for census in store.tenant_census()]
    if as_json:
        for document in found:
            click.echo(compact(document))
        return
    headings = [name.replace("_", " ") for name in ("tenant", *(each.name for each in fields(Used)))]
    table(headings, [tuple(document.values()) for document in found])


def _document(tenant: Tenant) -> Mapping[str, Any]:
    told = asdict(tenant)
    rates_told: dict[str, Any] = told.pop("rates")
    return {"tenant": told.pop("name"), "weight": told.pop("weight"), **rates_told, **told}


COMMANDS = (tenants,)
