"""The receivers of docs/api.md verify what we sign, and nothing else."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.api.wiring import Api

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
WITH_SECRET, WITH_KEY = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
BODY = json.dumps({"type": "job.succeeded", "data": {"id": "job_1"}}).encode()


def run(example: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "docs/api.md", "exec"), names)
    return names


def signed(api: Api, secrets: list[str]) -> dict[str, str]:
    now = int(time.time())
    signatures = api.keyring.signatures("evt_1", now, BODY, secrets)
    return {"webhook-id": "evt_1", "webhook-timestamp": str(now), "webhook-signature": signatures}


def test_the_receiver_with_a_secret(api: Api) -> None:
    (secret,) = re.findall(r"whsec_[^\"]+", WITH_SECRET)
    receiver = run(WITH_SECRET)["app"].test_client()

    assert receiver.post("/hook", data=BODY, headers=signed(api, [secret])).status_code == 204
    other = api.keyring.default_secret()
    assert receiver.post("/hook", data=BODY, headers=signed(api, [other, secret])).status_code == 204
    assert receiver.post("/hook", data=BODY, headers=signed(api, [other])).status_code == 401
    assert receiver.post("/hook", data=BODY + b" ", headers=signed(api, [secret])).status_code == 401


def test_the_receiver_with_a_public_key(api: Api) -> None:
    keys = api.client.get("/.well-known/webhook-keys").get_data(as_text=True)
    is_ours = run(WITH_KEY.replace("http://127.0.0.1:8000/.well-known/webhook-keys", f"data:,{quote(keys)}"))["is_ours"]

    headers = signed(api, [])
    assert is_ours(headers, BODY)
    assert not is_ours(headers, BODY + b" ")
    assert not is_ours(headers | {"webhook-id": "evt_2"}, BODY)
    assert not is_ours(headers | {"webhook-signature": "v1,eA== v2,x v1a,x v1a"}, BODY)
