"""``ktqueue tenants``: weights and limits, in the database itself, as ``ktqueue keys``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ktqueue.cli.app import App, json_option
from ktqueue.cli.keys import opened
from ktqueue.cli.limits import limit_options, show_used
from ktqueue.cli.show import compact, pairs, table
from ktqueue.tenant import HEAVIEST, LIGHTEST, Limits, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping


WEIGHT = click.FloatRange(LIGHTEST, HEAVIEST)


@click.group()
def tenants() -> None:
    """Say what part of a lane tenants get, and how much they may ask, in the settings' database."""


@tenants.command(name="set")
@click.argument("name")
@click.option("--weight", type=WEIGHT, default=1.0, show_default=True)
@limit_options
@json_option
@click.pass_obj
def set_tenant(app: App, /, *, name: str, weight: float, as_json: bool, **limits: int | None) -> None:
    """Let this hold for a tenant, within seconds; what is left out is no limit."""
    wanted = Tenant(name, weight, Limits(**limits))
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
    show_used(app, "tenant", as_json=as_json)


def _document(tenant: Tenant) -> Mapping[str, Any]:
    told = asdict(tenant)
    limits: dict[str, Any] = told.pop("limits")
    return {"tenant": told.pop("name"), "weight": told.pop("weight"), **limits, **told}


COMMANDS = (tenants,)
