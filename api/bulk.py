"""/api/v1/jobs:bulk: many jobs in one request, one a line, read and committed as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import orjson
from flask import Flask, request

from api.answers import Answer
from api.auth import caller
from api.body import decode, require_length, require_type
from api.errors import BrokenRules, Malformed, line_error
from api.lines import Bounds, Line, lines
from api.query import parameters
from api.schemas import BulkLine
from api.services import ApiServices
from api.submission import Submissions
from ktqueue.errors import Invalid, KtqueueError, LaneDraining, QueueFull, StoreUnavailable, TooLate
from ktqueue.intake import Intake, Submission
from ktqueue.representation import JOBS
from ktqueue.tenant import Caller

BULK = f"{JOBS}:bulk"
NDJSON = "application/x-ndjson"
GROUP_JOBS = 500
GROUP_BYTES = 4_000_000
"""What is committed in one transaction: no more jobs than that, and a new group once there are so many bytes."""


class Bulk:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        settings = services.settings
        self._intake = services.intake
        self._submissions = Submissions(services.catalogue, services.webhooks)
        self._bounds = Bounds(settings.max_body_bytes, settings.max_bulk_bytes, settings.max_bulk_lines)

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule(BULK, "submit_bulk", self.submit, methods=["POST"])

    def submit(self) -> Answer:
        """A line for a line: what can be taken is taken, whatever the others are."""
        parameters(request)
        require_type(request, NDJSON)
        require_length(request, self._bounds.total_bytes)
        if "HTTP_IDEMPOTENCY_KEY" in request.environ:
            raise Malformed("a bulk submit takes no key", field="Idempotency-Key")
        entry = _Entry(self._intake, self._submissions, caller())
        # Copied together as they come: each document that orjson makes holds 4 KB for as long as it lives.
        answers = bytearray()
        for group in _groups(lines(request.stream, self._bounds)):
            answers += b"".join(entry.answers(group))
        if not answers:
            raise BrokenRules([{"field": "", "message": "there is no job in the body"}])
        return Answer(bytes(answers), 200, content_type=NDJSON)


def _groups(numbered: Iterable[Line]) -> Iterator[list[Line]]:
    group: list[Line] = []
    size = 0
    for number, line in numbered:
        group.append((number, line))
        size += 0 if isinstance(line, Invalid) else len(line)
        if len(group) >= GROUP_JOBS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Entry:
    """One bulk submit on its way in: what a lane or the store refused once is not asked of it again."""

    def __init__(self, intake: Intake, submissions: Submissions, caller: Caller) -> None:
        self._caller = caller
        self._intake = intake
        self._submissions = submissions
        self._down: StoreUnavailable | None = None
        self._closed: dict[str, QueueFull | LaneDraining] = {}

    def answers(self, group: Sequence[Line]) -> list[bytes]:
        """Submit what is valid in a group; an answer for each line, in order."""
        outcomes: dict[int, str | KtqueueError] = {}
        lanes: dict[str, list[tuple[int, Submission]]] = {}
        for number, line in group:
            try:
                submission = self._parsed(line)
                self._intake.refuse_late(submission)
            except (Invalid, TooLate) as error:
                outcomes[number] = error
            except StoreUnavailable as error:
                self._down = outcomes[number] = error
            else:
                lanes.setdefault(submission.model, []).append((number, submission))
        for model, submissions in lanes.items():
            outcomes |= self._submit(model, submissions)
        return [_answer(number, outcomes[number]) for number, _ in group]

    def _parsed(self, line: bytes | Invalid) -> Submission:
        if isinstance(line, Invalid):
            raise line
        return self._submissions.parse(decode(line), self._caller)

    def _submit(self, model: str, numbered: Sequence[tuple[int, Submission]]) -> dict[int, str | KtqueueError]:
        """Submit jobs of one lane: what became of each, by its line."""
        refusal = self._down or self._closed.get(model)
        if refusal is not None:
            return dict.fromkeys((number for number, _ in numbered), refusal)
        try:
            jobs = self._intake.submit_many([submission for _, submission in numbered])
        except QueueFull as error:
            if len(numbered) == 1:
                self._closed[model] = error
                return {numbered[0][0]: error}
            # There may be room for some of them.
            half = len(numbered) // 2
            return self._submit(model, numbered[:half]) | self._submit(model, numbered[half:])
        except LaneDraining as error:
            self._closed[model] = error
            return dict.fromkeys((number for number, _ in numbered), error)
        except StoreUnavailable as error:
            self._down = error
            return dict.fromkeys((number for number, _ in numbered), error)
        return {number: job.id for (number, _), job in zip(numbered, jobs, strict=True)}


def _answer(number: int, outcome: str | KtqueueError) -> bytes:
    line: BulkLine = {"line": number}
    if isinstance(outcome, str):
        line["id"] = outcome
    else:
        line["error"] = line_error(outcome)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
