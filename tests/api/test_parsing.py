"""Cursors, event ids, times and preferences: what one writes the other reads, and nothing else gets through."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st

from api import cursor
from api.answers import retry_after
from api.errors import Malformed
from api.ids import DELIVERY_ID, JOB_ID, delivery_id, delivery_number
from api.preferences import idempotency_key, preference
from ktqueue.errors import Invalid
from ktqueue.events.base import END, EventId
from ktqueue.job import new_job_id
from ktqueue.times import rfc3339, unix_ms

JOB_IDS = st.integers(0, 2**128 - 1).map(lambda number: f"job_{number:032x}")
HEADER = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=60)


@given(JOB_IDS)
def test_a_cursor_is_read_back(job_id: str) -> None:
    assert cursor.decode(cursor.encode(job_id), JOB_ID) == job_id


@given(st.integers(1, 10**18 - 1))
def test_the_id_of_a_delivery_and_its_cursor_are_read_back(number: int) -> None:
    identity = delivery_id(number)

    assert delivery_number(cursor.decode(cursor.encode(identity), DELIVERY_ID)) == number


@given(JOB_IDS, st.integers(1, 10**18 - 1))
def test_a_cursor_of_another_list_is_malformed(job_id: str, number: int) -> None:
    for identity, ids in ((job_id, DELIVERY_ID), (delivery_id(number), JOB_ID)):
        with pytest.raises(Malformed, match="next_cursor"):
            cursor.decode(cursor.encode(identity), ids)


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=-]{40,60}", fullmatch=True)))
def test_a_cursor_that_nobody_wrote_is_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="next_cursor"):
        cursor.decode(text, JOB_ID)


@given(JOB_IDS, st.integers(0, 50), st.text(min_size=1, max_size=2))
def test_a_cursor_that_was_changed_is_malformed_or_was_not_changed(job_id: str, at: int, by: str) -> None:
    written = cursor.encode(job_id)
    changed = written[:at] + by + written[at + 1 :]
    try:
        read = cursor.decode(changed, JOB_ID)
    except Malformed:
        return
    assert cursor.encode(read) == changed


def test_new_ids_are_ids() -> None:
    assert JOB_ID.fullmatch(new_job_id())


@given(st.integers(0, 999_999_999), st.integers(0, END))
def test_an_event_id_is_read_back(claim: int, offset: int) -> None:
    assert EventId.parse(str(EventId(claim, offset))) == (claim, offset)


@given(st.one_of(st.text(), st.from_regex(r"-?[0-9٣]{0,12}-[0-9]{0,5000}", fullmatch=True)))
def test_anything_else_is_invalid(text: str) -> None:
    if re.fullmatch(r"[0-9]{1,9}-[0-9]{1,10}", text) and int(text.split("-")[1]) <= END:
        assert EventId.parse(text)
        return
    with pytest.raises(Invalid) as refused:
        EventId.parse(text)
    assert refused.value.field == "Last-Event-ID"


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_is_read_back(instant: int) -> None:
    text = rfc3339(instant)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert unix_ms(text) == instant


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the offset is drawn on its own
    st.integers(-23 * 60, 23 * 60),
    st.sampled_from(["milliseconds", "microseconds"]),
)
def test_any_offset_is_understood(moment: datetime, minutes: int, precision: str) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    found = unix_ms(aware.isoformat(timespec=precision))

    assert abs(epoch + timedelta(milliseconds=found) - aware) <= timedelta(milliseconds=1)


@given(st.one_of(st.none(), st.integers(), st.floats(), st.text()))
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be an RFC 3339 time"):
        unix_ms(value)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59.9999999Z",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00+00:01",
    ],
)
def test_a_time_that_could_not_be_told_again_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        unix_ms(text)


def asking(**headers: str) -> Request:
    return Request({"REQUEST_METHOD": "POST"} | {f"HTTP_{name.upper()}": value for name, value in headers.items()})


@given(HEADER)
def test_no_preference_is_an_error(text: str) -> None:
    asked = preference(asking(prefer=text))
    assert asked.wait_s is None or 0 <= asked.wait_s <= 60


@given(st.integers(0, 10**9 - 1))
def test_a_wait_is_at_most_a_minute(seconds: int) -> None:
    assert preference(asking(prefer=f"respond-async, Wait = {seconds}; x=1")).wait_s == min(seconds, 60)


@given(HEADER)
def test_a_key_is_visible_ascii_or_malformed(text: str) -> None:
    if len(text) >= 1 and all("!" <= character <= "~" for character in text):
        key = idempotency_key(asking(idempotency_key=text), {})
        assert key is not None
        assert key.key == text
        return
    with pytest.raises(Malformed) as refused:
        idempotency_key(asking(idempotency_key=text), {})
    assert refused.value.field == "Idempotency-Key"


def test_the_digest_is_of_the_json_value() -> None:
    def digest(document: object) -> str:
        key = idempotency_key(asking(idempotency_key="k"), document)
        assert key is not None
        return key.digest

    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})


@given(st.one_of(st.none(), st.floats(0, 1e12)), st.one_of(st.none(), st.integers(0, 10**9)))
def test_patience_is_bounded_and_grows(eta_s: float | None, ahead: int | None) -> None:
    seconds = int(retry_after(eta_s, ahead))

    assert 1 <= seconds <= 60
    assert int(retry_after((eta_s or 0) + 10, ahead)) >= int(retry_after(eta_s or 0, ahead))
    assert int(retry_after(None, (ahead or 0) + 1000)) >= int(retry_after(None, ahead))
