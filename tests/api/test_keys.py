"""Keys: who is let in, with what, and what is said to everybody else."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from api.operation import Operation
from api.operations import OPERATIONS
from ktqueue.access import BELIEVED_S, REMEMBERED_S, Access, AccessOnceThereAreKeys, KeyAccess
from ktqueue.api_key import new_parts
from ktqueue.errors import StoreUnavailable
from ktqueue.job import JsonObject
from ktqueue.keys import KeyRequest
from ktqueue.registry.base import ApiKey, Registry
from ktqueue.tenant import ALL_SCOPES, CLIENT_SCOPES, Scope
from tests.api.wiring import JOBS, Api, json_of, problem_of
from tests.support.scene import Outage, around

KEYS = "/api/v1/keys"
JOB = {"model": "echo", "input": {"say": "hi"}}
UNCHALLENGED = 'Bearer realm="ktqueue"'


class Keyed:
    """An API that asks for keys, and one key with every scope."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self.sql = Outage(StoreUnavailable)
        self.api = Api(access=self.access)
        self.admin = self.key(scopes=ALL_SCOPES)

    def access(self, api: Api) -> Access:
        registry: Registry = around(lambda: api.registry, self.sql)
        return KeyAccess(registry, self.used.append, api.scene.clock.monotonic)

    def made(self, **given: Any) -> tuple[ApiKey, str]:
        wanted = KeyRequest(**{"tenant": "a", "name": "", "scopes": CLIENT_SCOPES} | given)
        return self.api.keys.create(wanted)

    def key(self, **given: Any) -> str:
        return self.made(**given)[1]

    def ask(self, method: str, path: str, key: str | None, body: Any = None, scheme: str = "Bearer") -> TestResponse:
        headers = {} if key is None else {"Authorization": f"{scheme} {key}"}
        return self.api.client.open(path, method=method, json=body, headers=headers)

    def submit(self, key: str | None) -> TestResponse:
        return self.ask("POST", JOBS, key, JOB)

    def create(self, body: JsonObject, key: str | None = None) -> TestResponse:
        return self.ask("POST", KEYS, key or self.admin, body)


@pytest.fixture
def keyed() -> Keyed:
    return Keyed()


def refused(response: TestResponse) -> str:
    """That it was refused for its key; the challenge."""
    problem = problem_of(response, 401)
    assert problem["code"] == "unauthenticated"
    return response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_lets_in(keyed: Keyed, scheme: str) -> None:
    key, text = keyed.made(tenant="b")
    job = json_of(keyed.ask("POST", JOBS, text, JOB, scheme), 202)
    assert keyed.api.scene.true_store.get(job["id"]).tenant == "b"  # type: ignore[union-attr] # it was just accepted
    assert keyed.used == [key.id]


def test_without_a_key_nobody_gets_in(keyed: Keyed) -> None:
    assert refused(keyed.submit(None)) == UNCHALLENGED
    assert refused(keyed.ask("GET", "/api/v1/nothing-there", None)) == UNCHALLENGED
    assert keyed.ask("PUT", JOBS, None).status_code == 401
    assert keyed.ask("GET", "/api/v1/nothing-there", keyed.admin).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/.well-known/webhook-keys"])
def test_some_things_are_for_everybody(keyed: Keyed, path: str) -> None:
    assert keyed.ask("GET", path, None).status_code == 200


def test_every_operation_but_those_asks_for_its_scope(keyed: Keyed) -> None:
    keys = {scope: keyed.key(scopes=ALL_SCOPES - {scope}) for scope in Scope}
    for operation in OPERATIONS:
        if operation.scope is None:
            continue
        path, method = path_of(operation), operation.method.upper()
        assert refused(keyed.ask(method, path, None)) == UNCHALLENGED
        lacking = keyed.ask(method, path, keys[operation.scope])
        problem = problem_of(lacking, 403)
        assert (problem["code"], problem["scope"]) == ("forbidden", operation.scope)
        challenge = f'{UNCHALLENGED}, error="insufficient_scope", scope="{operation.scope}"'
        assert lacking.headers["WWW-Authenticate"] == challenge
        assert keyed.ask(method, path, keyed.admin).status_code not in {401, 403}


def path_of(operation: Operation) -> str:
    parts = [f"{part[1:-4]}_{'0' * 32}" if part.startswith("{") else part for part in operation.path.split("/")]
    return "/".join(parts)


def test_a_key_is_told_once_and_kept_nowhere(keyed: Keyed) -> None:
    answered = keyed.create({"tenant": "b", "name": "n", "scopes": ["jobs:read"], "requests_per_minute": 5})
    made = json_of(answered, 201)
    assert answered.headers["Cache-Control"] == "no-store"
    assert answered.headers["Location"] == f"{KEYS}/{made['id']}"
    text = made.pop("key")
    assert text.startswith(f"{made['prefix']}_")
    assert (made["tenant"], made["scopes"], made["requests_per_minute"]) == ("b", ["jobs:read"], 5)
    told = json_of(keyed.ask("GET", f"{KEYS}/{made['id']}", keyed.admin), 200)
    assert set(told.pop("used").values()) == {0}
    assert told == made
    assert json_of(keyed.ask("GET", JOBS, text), 200)["data"] == []
    kept = keyed.api.registry.key(made["id"])
    assert text[len("ktq_") + 13 :] not in repr(kept)
    assert keyed.submit(text).status_code == 403


def test_left_out_scopes_are_all_but_the_operators(keyed: Keyed) -> None:
    made = json_of(keyed.create({"tenant": "b"}), 201)
    assert set(made["scopes"]) == CLIENT_SCOPES
    assert keyed.create({"tenant": "b"}, made["key"]).status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "tenant"),
        ({"tenant": "B"}, "tenant"),
        ({"tenant": "-b"}, "tenant"),
        ({"tenant": "b" * 64}, "tenant"),
        ({"tenant": "b\n"}, "tenant"),
        ({"tenant": "b", "scopes": []}, "scopes"),
        ({"tenant": "b", "scopes": ["jobs:nope"]}, "scopes"),
        ({"tenant": "b", "scopes": "jobs:read"}, "scopes"),
        ({"tenant": "b", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"tenant": "b", "tokens_per_minute": 0}, "tokens_per_minute"),
        ({"tenant": "b", "nope": 1}, "nope"),
    ],
)
def test_a_wrong_wish_is_refused(keyed: Keyed, body: JsonObject, field: str) -> None:
    assert problem_of(keyed.create(body), 422)["errors"][0]["field"] == field


def test_keys_are_listed_page_by_page(keyed: Keyed) -> None:
    made = [json_of(keyed.create({"tenant": "b"}), 201)["id"] for _ in range(3)]
    first = json_of(keyed.ask("GET", f"{KEYS}?tenant=b&limit=2", keyed.admin), 200)
    rest = json_of(keyed.ask("GET", f"{KEYS}?tenant=b&limit=2&cursor={first['next_cursor']}", keyed.admin), 200)
    assert [each["id"] for each in first["data"] + rest["data"]] == made[::-1]
    assert rest["next_cursor"] is None
    assert all("key" not in each for each in first["data"])


def test_a_revoked_key_is_let_in_for_seconds_at_most(keyed: Keyed) -> None:
    key, text = keyed.made()
    assert keyed.submit(text).status_code == 202
    assert json_of(keyed.ask("POST", f"{KEYS}/{key.id}/revoke", keyed.admin), 200)["revoked_at"] is not None
    keyed.api.scene.clock.sleep(BELIEVED_S)
    assert refused(keyed.submit(text)) == f'{UNCHALLENGED}, error="invalid_token"'
    assert keyed.ask("POST", f"{KEYS}/key_{'0' * 32}/revoke", keyed.admin).status_code == 404


def test_a_key_ends_when_it_expires(keyed: Keyed) -> None:
    text = keyed.key(expires_at=keyed.api.registry.now() + 1_000)
    assert keyed.submit(text).status_code == 202
    keyed.api.scene.clock.sleep(1)
    refused(keyed.submit(text))


def test_a_rotated_key_lives_on_beside_the_new_one_for_a_while(keyed: Keyed) -> None:
    old, text = keyed.made(tenant="b", scopes=frozenset({Scope.JOBS_WRITE}))
    made = json_of(keyed.ask("POST", f"{KEYS}/{old.id}/rotate", keyed.admin, {"overlap_seconds": 60}), 201)
    assert (made["tenant"], made["scopes"]) == ("b", ["jobs:write"])
    assert made["id"] != old.id
    for each in (text, made["key"]):
        assert keyed.submit(each).status_code == 202
    keyed.api.scene.clock.sleep(60)
    refused(keyed.submit(text))
    assert keyed.submit(made["key"]).status_code == 202
    again = keyed.ask("POST", f"{KEYS}/{old.id}/rotate", keyed.admin, {})
    assert problem_of(again, 409)["code"] == "conflict"


def test_a_request_costs_no_query(keyed: Keyed) -> None:
    text = keyed.key()
    keyed.submit(text)
    keyed.sql.calls.clear()
    for _ in range(10):
        keyed.submit(text)
        keyed.submit(str(new_parts()._replace(prefix=text[4:16])))
    assert keyed.sql.calls.keys() == {"now"}, "which is extrapolated"


def test_many_keys_are_read_again_in_one_query(keyed: Keyed) -> None:
    texts = [keyed.key() for _ in range(5)]
    for text in texts:
        keyed.submit(text)
    keyed.sql.calls.clear()
    keyed.api.scene.clock.sleep(BELIEVED_S)
    assert {keyed.submit(text).status_code for text in texts} == {202}
    assert keyed.sql.calls["keys_by_prefix"] == 1


def test_a_process_begins_with_the_keys_that_others_let_in(keyed: Keyed) -> None:
    texts = [keyed.key() for _ in range(5)]
    for text in texts:
        keyed.submit(text)
    other = keyed.access(keyed.api)
    keyed.sql.calls.clear()
    assert [other.caller(f"Bearer {text}").tenant for text in texts] == 5 * ["a"]
    assert (keyed.sql.calls["latest_prefixes"], keyed.sql.calls["keys_by_prefix"]) == (1, 1)


def test_keys_that_rest_for_a_while_are_read_with_the_others(keyed: Keyed) -> None:
    one, other = keyed.key(), keyed.key()
    keyed.submit(one)
    keyed.submit(other)
    for _ in range(int(REMEMBERED_S / BELIEVED_S) - 1):
        keyed.api.scene.clock.sleep(BELIEVED_S)
        keyed.submit(one)
    keyed.sql.calls.clear()
    keyed.submit(other)
    assert "keys_by_prefix" not in keyed.sql.calls

    for _ in range(int(REMEMBERED_S / BELIEVED_S) + 1):
        keyed.api.scene.clock.sleep(BELIEVED_S)
        keyed.submit(one)
    keyed.sql.calls.clear()
    keyed.submit(other)
    assert keyed.sql.calls["keys_by_prefix"] == 1


def test_what_can_not_be_looked_up_is_not_let_in(keyed: Keyed) -> None:
    text = keyed.key()
    keyed.sql.go("keys_by_prefix")
    assert keyed.submit(text).status_code == 503
    keyed.sql.come_back()
    assert keyed.submit(text).status_code == 202


def test_on_loopback_keys_are_asked_for_once_there_is_one_and_from_then_on() -> None:
    sql = Outage(StoreUnavailable)

    def access(api: Api) -> Access:
        registry: Registry = around(lambda: api.registry, sql)
        clock = api.scene.clock.monotonic
        return AccessOnceThereAreKeys(registry, KeyAccess(registry, lambda _: None, clock), clock)

    api = Api(access=access)

    def submit(key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return api.client.post(JOBS, json=JOB, headers=headers).status_code

    sql.go()
    assert submit(None) == 503, "nobody knows"
    sql.come_back()
    assert (submit(None), submit("anything, as OpenAI's client always sends a key")) == (202, 202)
    api.scene.clock.sleep(BELIEVED_S)
    sql.go("any_key")
    assert submit(None) == 202
    sql.come_back()
    key, text = api.keys.create(KeyRequest("b", "", CLIENT_SCOPES))
    api.scene.clock.sleep(BELIEVED_S)
    assert (submit(None), submit(text)) == (401, 202)
    api.keys.revoke(key.id)
    api.scene.clock.sleep(BELIEVED_S)
    assert (submit(None), submit(text)) == (401, 401)


# --- 10,000 attempts -------------------------------------------------------------------------------------------


def attempts(keyed: Keyed, chance: random.Random) -> list[str]:
    """What to send as `Authorization`, none of it good, much of it nearly."""
    good = keyed.admin
    other = Keyed().admin
    revoked, revoked_text = keyed.made(scopes=ALL_SCOPES)
    keyed.api.keys.revoke(revoked.id)
    expired = keyed.key(scopes=ALL_SCOPES, expires_at=keyed.api.registry.now() + 1)
    keyed.api.scene.clock.sleep(1)
    ghost = replace(revoked, id="key_ghost", revoked_at=None)
    assert ghost.digest not in good
    letters = "0123456789abcdefABC_-.=/+é \t"

    def nearly() -> str:
        place = chance.randrange(len(good))
        swapped = chance.choice(letters.replace(good[place], ""))
        return good[:place] + swapped + good[place + 1 :]

    ways = [
        lambda: f"Bearer {other}",
        lambda: f"Bearer {revoked_text}",
        lambda: f"Bearer {expired}",
        lambda: f"Bearer {nearly()}",
        lambda: f"Bearer {good[: chance.randrange(len(good))]}",
        lambda: f"Bearer {good}{chance.choice(letters[:-2])}",
        lambda: f"Bearer {new_parts()}",
        lambda: f"Bearer {new_parts()._replace(prefix=good[4:16])}",
        lambda: f"Bearer {good[:17]}{revoked.digest[:43]}",
        lambda: f"{chance.choice(['Basic', 'Token', 'Digest', 'bear', ''])} {good}",
        lambda: good,
        lambda: f"Bearer {good},Bearer {good}",
        lambda: "".join(chance.choice(letters) for _ in range(chance.randrange(100))),
    ]
    return [chance.choice(ways)() for _ in range(10_000)]


def test_of_10_000_bad_keys_none_is_let_in(keyed: Keyed) -> None:
    operations = [each for each in OPERATIONS if each.scope is not None]
    chance = random.Random(6)
    statuses: Counter[int] = Counter()
    for authorization in attempts(keyed, chance):
        operation = chance.choice(operations)
        headers = {"Authorization": authorization.strip("\t")}
        answered = keyed.api.client.open(path_of(operation), method=operation.method.upper(), headers=headers)
        statuses[answered.status_code] += 1
    assert statuses == {401: 10_000}
    assert keyed.used == []


def test_whoever_sends_a_key_may_do_so_from_any_page(keyed: Keyed) -> None:
    headers = {"Origin": "https://console.example", "Authorization": f"Bearer {keyed.key()}"}
    assert keyed.api.client.post(JOBS, json=JOB, headers=headers).status_code == 202
