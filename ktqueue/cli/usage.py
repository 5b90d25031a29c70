"""``ktqueue usage``: what tenants used, day by day."""

from __future__ import annotations

from datetime import datetime

import click

from ktqueue.cli.app import Session, session
from ktqueue.cli.show import emit, table

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--from", "first", type=DAY, help="The first day (UTC); left out: 30 days in all.")
@click.option("--to", "last", type=DAY, help="The last day (UTC); left out: today.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--model", help="Only this model's.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with a line of names first.")
@session
def usage(
    session: Session,
    *,
    first: datetime | None,
    last: datetime | None,
    tenant: str | None,
    model: str | None,
    as_csv: bool,
) -> None:
    """Show what was used, by day, tenant and model: jobs, tokens, device time."""
    begin, end = first and first.date(), last and last.date()
    with session.client() as client:
        if as_csv:
            text = client.operator.usage_csv(first=begin, last=end, tenant=tenant, model=model)
            click.echo(text, nl=False)
            return
        rows = client.operator.usage(first=begin, last=end, tenant=tenant, model=model)
    if session.as_json:
        for row in rows:
            emit(row)
        return
    headings = ("day", "tenant", "model", "succeeded", "failed", "cancelled", "expired", "tokens", "device seconds")
    table(
        headings,
        [
            (
                *(each.day, each.tenant, each.model, each.succeeded, each.failed, each.cancelled, each.expired),
                f"{each.prompt_tokens} + {each.completion_tokens}",
                f"{each.device_seconds:.3f}",
            )
            for each in rows
        ],
    )


COMMANDS = (usage,)
