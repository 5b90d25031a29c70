"""The command ``ktqueue``: run the service, and use one.

Only click is imported until a command runs, so that ``ktqueue --help`` and the shell's completion are quick.
"""

from __future__ import annotations

import click

from ktqueue.cli import jobs, keys, lanes, serve, submit, tenants, top, usage, webhooks
from ktqueue.cli.app import App, Unreachable, WrongUse
from ktqueue.errors import KtqueueError, Unavailable

EPILOG = """\b
Exit codes:
  0  ok
  1  a job ended other than succeeded, or a webhook was not taken
  2  wrong usage or configuration
  3  the server can't be reached
  4  the server refused
  5  timed out waiting
"""


class Commands(click.Group):
    """Ends expected errors of the service's own code with one line, and Ctrl-C as shells expect it."""

    def invoke(self, ctx: click.Context) -> None:
        """Run the command that was asked for."""
        try:
            super().invoke(ctx)
        except Unavailable as error:
            raise Unreachable(str(error)) from error
        except KtqueueError as error:
            raise WrongUse(str(error)) from error
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":
                raise
            # What was given as bytes that are no text is found out where it would be sent, or stored.
            raise WrongUse("what was given is not UTF-8") from error
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ktqueue")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run models for many users at once: POST a job, poll or stream its result."""
    ctx.ensure_object(App)


for group in (serve, submit, jobs, lanes, top, usage, webhooks, keys, tenants):
    for command in group.COMMANDS:
        main.add_command(command)
