"""``ktqueue submit``: one job from the command line, or many from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ktqueue.cli.app import Refused, Session, session
from ktqueue.cli.jobs import TIMEOUT, finish
from ktqueue.cli.numbers import Seconds
from ktqueue.cli.pairs import METADATA, PARAMS, strict_json
from ktqueue.cli.show import emit, output_of, progress_of, waiting_for
from ktqueue.job import JobState, JsonObject
from ktqueue.webhook import SUBSCRIBABLE

if TYPE_CHECKING:
    from ktqueue.client import Client, Job, JobOptions, Submitted, WebhookOptions


@dataclass(frozen=True, slots=True)
class Ask:
    """What was asked for on the command line, for one job."""

    text: str | None
    job_input: JsonObject | None
    chat: bool
    task: str | None
    params: JsonObject
    metadata: dict[str, str]
    priority: int | None
    max_attempts: int | None
    deadline: float | None
    webhook: str | None
    webhook_events: Sequence[str]
    idempotency_key: str | None
    wait: bool
    stream: bool
    timeout: float | None

    def says_something_of_a_job(self) -> bool:
        """Whether anything but ``--wait`` and its time-out was asked for."""
        others = (self.text, self.job_input, self.idempotency_key)
        return self.chat or self.stream or bool(self.options()) or any(other is not None for other in others)

    def options(self) -> JobOptions:
        """Only what was given: the server has the defaults."""
        given: dict[str, Any] = {
            "task": self.task,
            "params": self.params or None,
            "metadata": self.metadata or None,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "deadline_seconds": self.deadline,
            "webhook": self._webhook(),
        }
        return cast("JobOptions", {key: value for key, value in given.items() if value is not None})

    def _webhook(self) -> WebhookOptions | None:
        if self.webhook is None:
            return None
        return {"url": self.webhook, "events": self.webhook_events} if self.webhook_events else {"url": self.webhook}


def _json_object(ctx: click.Context, param: click.Parameter, given: str | None) -> JsonObject | None:
    if given is None:
        return None
    try:
        document = strict_json(given)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", ctx=ctx, param=param) from error
    if not isinstance(document, dict):
        raise click.BadParameter("must be a JSON object", ctx=ctx, param=param)
    return document


def _key(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    from ktqueue.client.values import key_of

    try:
        return None if given is None else key_of(given)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


@click.command()
@click.argument("model", required=False)
@click.argument("text", required=False)
@click.option("--input", "job_input", metavar="JSON", callback=_json_object, help="The job's input, instead of TEXT.")
@click.option("--file", "path", metavar="JOBS.NDJSON", help="Submit a job for each line of a file ('-': of stdin).")
@click.option("--chat", is_flag=True, help="TEXT is a user's message to answer, not a prompt to continue.")
@click.option("--task", help="What to do, if the model can do several things.")
@PARAMS
@METADATA
@click.option("--priority", type=click.IntRange(0, 9), help="Higher runs sooner; 5 if left out.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="How often to try.")
@click.option("--deadline", type=Seconds(), metavar="SECONDS", help="Expire the job if it has not ended by then.")
@click.option("--webhook", metavar="URL", help="Tell this URL how the job ends.")
@click.option(
    "--webhook-event",
    "webhook_events",
    multiple=True,
    type=click.Choice(list(SUBSCRIBABLE)),
    metavar="NAME",
    help=f"Tell the webhook of this instead: {', '.join(SUBSCRIBABLE)}. May be repeated.",
)
@click.option("--idempotency-key", callback=_key, help="Submitting twice with one key makes one job.")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it.")
@click.option("--stream", is_flag=True, help="Print the text as it is written.")
@TIMEOUT
@session
def submit(session: Session, model: str | None, path: str | None, **asked: Any) -> None:
    """Submit a job: MODEL and its TEXT ('-' reads it from stdin).

    Prints the job's id; with --wait its result: the text, or for other tasks JSON.
    """
    ask = Ask(**asked)
    if ask.webhook_events and ask.webhook is None:
        raise click.UsageError("--webhook-event says what to tell a --webhook")
    if path is None:
        if model is None:
            raise click.UsageError("name a MODEL, or a --file of jobs")
        _submit_one(session, model, ask)
        return
    if model is not None or ask.says_something_of_a_job():
        raise click.UsageError("with --file each line says all there is to say of its job; only --wait goes with it")
    _submit_file(session, path, ask)


def _submit_one(session: Session, model: str, ask: Ask) -> None:
    with session.client() as client:
        job = client.submit(model, _input(client, model, ask), idempotency_key=ask.idempotency_key, **ask.options())
        if ask.stream:
            _stream(session, client, job)
        elif ask.wait:
            with waiting_for(f"{job.id} …"):
                ended = client.wait(job, ask.timeout)
            _tell(session, ended, output_of(ended))
        elif session.as_json:
            emit(job)
        else:
            click.echo(job.id)


def _tell(session: Session, ended: Job, output: str) -> None:
    """Print what a job made; raises JobEnded if that is nothing."""
    from ktqueue.client.errors import ending

    if session.as_json:
        emit(ended)
    if ended.state is not JobState.SUCCEEDED:
        raise ending(ended)
    if not session.as_json:
        click.echo(output)


def _stream(session: Session, client: Client, job: Job) -> None:
    shown = 0
    for event in client.stream(job):
        if session.as_json:
            emit(event)
        elif event.type == "token" and "choice" not in event.data:
            text, offset = str(event.data.get("text", "")), int(event.data.get("offset", 0))
            if offset < shown:
                click.echo("\n(that attempt was lost; the text starts anew)", err=True)
            click.echo(text, nl=False)
            shown = offset + len(text)
    ended = client.get(job)
    # Engines that write no text as they go have said nothing yet, nor have several choices, which come mixed; a text
    # wants the end of its last line.
    _tell(session, ended, "" if shown else output_of(ended))


def _input(client: Client, model: str, ask: Ask) -> JsonObject:
    if (ask.text is None) == (ask.job_input is None):
        raise click.UsageError("give the TEXT, or the --input")
    if ask.job_input is not None:
        return ask.job_input
    text = _from_stdin() if ask.text == "-" else ask.text
    if ask.chat:
        return {"messages": [{"role": "user", "content": text}]}
    task = ask.task or next((known.tasks[0] for known in client.models() if known.id == model), "generate")
    if task == "rerank":
        raise click.UsageError("""to rerank, give --input '{"query": "…", "documents": ["…", "…"]}'""")
    return {"prompt" if task == "generate" else "text": text}


def _from_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"what comes from stdin is not UTF-8: {error}", param_hint="TEXT") from error


def _submit_file(session: Session, path: str, ask: Ask) -> None:
    with session.client() as client:
        answers = _submit_lines(session, client, path, quiet=ask.wait)
        ids = [answer.id for answer in answers if answer.id is not None]
        if ids and ask.wait:
            finish(client, ids, ask.timeout, as_json=session.as_json)
    if len(ids) < len(answers):
        raise Refused(f"{len(answers) - len(ids)} of {len(answers)} jobs were refused")


def _submit_lines(session: Session, client: Client, path: str, *, quiet: bool) -> list[Submitted]:
    """Submit each line; tells of each, unless ``quiet``, and of those that were refused in any case."""
    answers = []
    with _opened(path) as lines:
        for answer in client.submit_many(lines):
            answers.append(answer)
            if answer.error is not None:
                click.echo(f"line {answer.line}: {answer.error.message} ({answer.error.code})", err=True)
            if session.as_json and not quiet:
                emit(answer)
            elif answer.id is not None and not quiet:
                click.echo(answer.id)
    return answers


@contextmanager
def _opened(path: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file, with a bar that shows how far it has been read; or of stdin."""
    if path == "-":
        yield iter(sys.stdin.buffer)
        return
    try:
        with progress_of(Path(path)) as lines:
            yield lines
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--file") from error


COMMANDS = (submit,)
