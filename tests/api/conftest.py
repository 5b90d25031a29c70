from __future__ import annotations

import pytest

from tests.api.wiring import Api


@pytest.fixture
def api() -> Api:
    return Api()
