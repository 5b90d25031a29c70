"""POST /api/v1/jobs:bulk: a line for a line, in order; good lines are taken whatever the others are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from werkzeug.test import TestResponse

from api.bulk import GROUP_JOBS
from api.lines import CHUNK, Bounds, lines
from ktqueue.errors import TooLarge
from tests.api.wiring import JOBS, NDJSON, Api, problem_of

GOOD = b'{"model":"echo","input":{}}'


def answers_of(response: TestResponse) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.get_data(as_text=True)
    assert response.content_type == NDJSON
    body = response.get_data()
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


def codes(answers: list[dict[str, Any]]) -> list[str | None]:
    return [answer["error"]["code"] if "error" in answer else None for answer in answers]


def streamed(api: Api, body: BytesIO) -> TestResponse:
    """POST a body whose length is not told."""
    return api.client.post(
        f"{JOBS}:bulk",
        input_stream=body,
        content_type=NDJSON,
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )


def test_each_line_has_its_answer_and_the_good_ones_are_committed(api: Api) -> None:
    body = b"\n".join(
        [
            GOOD,
            b"",
            b"   \r",
            b"not json",
            b'{"model":"nobody","input":{}}',
            b'{"model":"echo","input":{},"priority":10}\r',
            b'{"model":"chat","task":"embed","input":{}}',
            b'{"model":"chat","input":{"prompt":"x"}}\r',
        ]
    )

    answers = answers_of(api.bulk(body))

    assert [answer["line"] for answer in answers] == [1, 4, 5, 6, 7, 8]
    assert codes(answers) == [None, "malformed", "unknown_model", "invalid_request", "unsupported_task", None]
    assert answers[3]["error"]["field"] == "priority"
    assert "less than or equal to 9" in answers[3]["error"]["message"]
    assert api.job(answers[0]["id"])["model"] == "echo"
    assert api.job(answers[5]["id"])["input"] == {"prompt": "x"}


def test_a_line_that_asks_for_too_many_chances_is_refused_alone(api: Api) -> None:
    asked = {"n": 16, "max_tokens": 32768, "logprobs": True}
    jobs = [{"model": "chat", "input": {"prompt": "x"}, "params": asked | {"top_logprobs": top}} for top in (0, 1)]

    taken, refused = answers_of(api.bulk("\n".join(map(json.dumps, jobs)).encode()))

    assert "id" in taken
    assert (refused["error"]["code"], refused["error"]["field"]) == ("invalid_request", "params")
    assert "n * max_tokens * (1 + top_logprobs) must be at most 688128" in refused["error"]["message"]


def test_many_lines_keep_their_order_across_groups_and_models(api: Api) -> None:
    chat = b'{"model":"chat","input":{"prompt":"x"}}'
    count = GROUP_JOBS * 2 + 7

    answers = answers_of(api.bulk(b"\n".join([GOOD, chat][number % 2] for number in range(count))))

    assert [answer["line"] for answer in answers] == list(range(1, count + 1))
    models = [api.job(answer["id"])["model"] for answer in answers]
    assert models == [["echo", "chat"][number % 2] for number in range(count)]


def test_a_body_of_unknown_length(api: Api) -> None:
    assert codes(answers_of(streamed(api, BytesIO(GOOD + b"\n" + GOOD)))) == [None, None]


def test_a_lane_takes_what_it_has_room_for_and_the_others_go_on() -> None:
    api = Api(max_queued=3)
    chat = b'{"model":"chat","input":{"prompt":"x"}}'

    answers = answers_of(api.bulk(b"\n".join([GOOD, GOOD, chat, GOOD, GOOD, chat, GOOD])))

    assert codes(answers) == [None, None, None, None, "queue_full", None, "queue_full"]
    assert answers[4]["error"]["retry_after"] == 60
    assert len(api.scene.waiting()) == 3


@pytest.mark.parametrize(
    ("bounds", "said"), [({"max_queued_all": 3}, "3 may"), ({"max_queued_bytes": 55}, "55 may be")]
)
def test_what_there_is_room_for_in_all_is_taken(bounds: dict[str, Any], said: str) -> None:
    api = Api(**bounds)
    line = b'{"model":"chat","input":{"prompt":"x"}}'  # 18 bytes of input, params and metadata

    answers = answers_of(api.bulk(b"\n".join([line] * 5)))

    assert codes(answers) == [None, None, None, "queue_full", "queue_full"]
    assert said in answers[4]["error"]["message"]


def test_a_database_that_goes_away_in_the_middle_refuses_the_rest(api: Api) -> None:
    reads: list[int] = []

    class Body(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(size or 0)
            if len(reads) in {2, 3}:
                api.scene.sql.go("add")
            else:
                api.scene.sql.come_back()
            return super().read(size)

    many = CHUNK // (len(GOOD) + 1) * 5
    answers = answers_of(streamed(api, Body((GOOD + b"\n") * many)))

    told = codes(answers)
    accepted = told.index("unavailable")
    assert accepted >= GROUP_JOBS
    assert set(told[:accepted]) == {None}
    assert set(told[accepted:]) == {"unavailable"}
    assert len(api.scene.waiting()) == accepted
    assert len(answers) == many
    assert answers[-1]["error"]["retry_after"] == 2


def test_a_database_that_goes_away_while_a_deadline_is_looked_at_refuses_the_rest(api: Api) -> None:
    rather_not_late = b'{"model":"echo","input":{},"deadline_seconds":60,"reject_if_late":true}'

    def go(name: str) -> None:
        if name == "now" and api.scene.sql.calls["add"]:
            api.scene.sql.go()

    api.scene.sql.before = go
    answers = answers_of(api.bulk(b"\n".join([GOOD] * GROUP_JOBS + [rather_not_late, GOOD])))

    assert codes(answers) == [None] * GROUP_JOBS + ["unavailable"] * 2


def test_more_lines_than_are_taken() -> None:
    api = Api(max_bulk_lines=3)

    answers = answers_of(api.bulk((GOOD + b"\n\n") * 5))

    assert codes(answers) == [None, None, None, "too_large"]
    assert answers[3]["line"] == 7
    assert "more than 3 jobs" in answers[3]["error"]["message"]
    assert len(api.scene.waiting()) == 3


def test_a_line_that_is_too_long_is_refused_alone() -> None:
    api = Api(max_body_bytes=100)
    long = GOOD.ljust(CHUNK * 3)

    answers = answers_of(api.bulk(b"\n".join([GOOD, GOOD.ljust(101), GOOD.ljust(100), long, GOOD])))

    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5]
    assert codes(answers) == [None, "too_large", None, "too_large", None]


def test_a_body_that_says_it_is_too_large_is_refused_whole() -> None:
    api = Api(max_bulk_bytes=100)

    problem = problem_of(api.bulk(GOOD.ljust(101)), 413)

    assert problem["code"] == "too_large"
    assert api.scene.waiting() == []


def test_a_body_that_turns_out_too_large_is_taken_up_to_there() -> None:
    api = Api(max_bulk_bytes=CHUNK * 2)
    body = (GOOD + b"\n") * (CHUNK // len(GOOD) * 3)

    answers = answers_of(streamed(api, BytesIO(body)))

    assert codes(answers)[-1] == "too_large"
    assert set(codes(answers)[:-1]) == {None}
    assert len(answers) == CHUNK * 2 // (len(GOOD) + 1) + 1
    assert f"{CHUNK * 2} bytes" in answers[-1]["error"]["message"]


def test_a_line_that_is_too_long_and_a_body_that_is_have_an_answer_each() -> None:
    api = Api(max_body_bytes=100, max_bulk_bytes=CHUNK * 2)

    answers = answers_of(streamed(api, BytesIO(b"x" * CHUNK * 3)))

    assert [(answer["line"], answer["error"]["code"]) for answer in answers] == [(1, "too_large"), (2, "too_large")]
    assert "100 bytes" in answers[0]["error"]["message"]
    assert f"{CHUNK * 2} bytes" in answers[1]["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n \n"])
def test_a_body_without_a_job(api: Api, body: bytes) -> None:
    assert "no job" in problem_of(api.bulk(body), 422)["detail"]


def test_other_content_types_and_keys_are_refused(api: Api) -> None:
    assert "application/x-ndjson" in problem_of(api.bulk(GOOD, content_type="application/json"), 415)["detail"]
    problem = problem_of(api.bulk(GOOD, headers={"Idempotency-Key": "k"}), 400)
    assert problem["field"] == "Idempotency-Key"


# --- lines -----------------------------------------------------------------------------------------------------


class Endless:
    """A body that never ends, and how much of it was read."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk
        self.given = 0

    def read(self, size: int, /) -> bytes:
        self.given += len(self._chunk)
        return self._chunk


def test_no_more_is_read_than_may_be() -> None:
    for chunk in (b"x" * CHUNK, b"x\n" * (CHUNK // 2), b"\n" * CHUNK):
        body = Endless(chunk)
        *_, (_, last) = lines(body, Bounds(line_bytes=1000, total_bytes=1_000_000, lines=10**9))
        assert isinstance(last, TooLarge)
        assert body.given <= 1_000_000 + CHUNK


def test_lines_are_given_as_they_come() -> None:
    body = Endless(b"x\n")
    numbered = lines(body, Bounds(line_bytes=1000, total_bytes=1_000_000, lines=10**9))

    assert next(numbered) == (1, b"x")
    assert body.given == 2


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_it_does_not_matter_where_the_chunks_end(size: int) -> None:
    class Stream:
        def __init__(self) -> None:
            self._pieces = pieces(b"one\n\n  \ntoo long by far\r\nthree\ntoo long again", size)

        def read(self, size: int, /) -> bytes:
            return next(self._pieces, b"")

    found = list(lines(Stream(), Bounds(line_bytes=6, total_bytes=1000, lines=100)))

    assert [number for number, _ in found] == [1, 4, 5, 6]
    assert [line for _, line in found if isinstance(line, bytes)] == [b"one", b"three"]
