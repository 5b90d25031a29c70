"""Times that tests measure on their way, told at the end of the run beside what they should be; none fails for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import pytest

PROPERTY = "measured"


class Measured(Protocol):
    """Note how long something took, and the longest that it should."""

    def __call__(self, what: str, seconds: float, *, bar_s: float) -> None: ...


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """It travels with the test's report, so from another process too."""

    def note(what: str, seconds: float, *, bar_s: float) -> None:
        verdict = "" if seconds <= bar_s else ", MISSED"
        record_property(PROPERTY, f"{what}: {seconds:.2f} s (bar {bar_s:g} s{verdict})")

    return note


def lines(reports: Iterable[pytest.TestReport]) -> list[str]:
    """What was noted, in the order of the tests."""
    return [str(value) for report in reports for name, value in report.user_properties if name == PROPERTY]
