"""Limits at the command line, of tenants and of keys alike: the options that say them, and what there is of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, fields
from typing import Literal

import click

from ktqueue.cli.app import App
from ktqueue.cli.show import compact, table

LIMIT = click.IntRange(1, 10**15)
OPTIONS = {
    "requests_per_minute": "Most requests.",
    "tokens_per_minute": "Most tokens submitted, estimated.",
    "queued_jobs": "Most jobs that wait.",
    "unfinished_jobs": "Most jobs that wait or run.",
    "queued_bytes": "Most bytes of input, params and metadata of jobs that wait.",
    "stored_bytes": "Most bytes of those and of results, of all jobs that are kept.",
    "running_jobs": "Most jobs that run at once, of all models; others wait.",
}


def limit_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of `Limits`."""
    for name, text in reversed(OPTIONS.items()):
        function = click.option(f"--{name.replace('_', '-')}", type=LIMIT, help=text)(function)
    return function


def show_used(app: App, whose: Literal["tenant", "key"], *, as_json: bool) -> None:
    """Show what each tenant, or each key, has in the settings' database of what limits bound."""
    from ktqueue.counted import Used, used_of
    from ktqueue.store.sql import SqlStore

    with closing(SqlStore(app.settings().sql_url)) as store:
        counted = store.tenant_census() if whose == "tenant" else store.key_census()
    found = [{whose: census.whose, **asdict(used_of(census))} for census in counted]
    if as_json:
        for document in found:
            click.echo(compact(document))
        return
    headings = [name.replace("_", " ") for name in (whose, *(each.name for each in fields(Used)))]
    table(headings, [tuple(document.values()) for document in found])
