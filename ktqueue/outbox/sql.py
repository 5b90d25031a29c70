"""The outbox on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from ktqueue.outbox import statements
from ktqueue.outbox.base import Delivery, DeliveryAttempt, DeliveryQuery, DueTarget, Endpoint, Settlement
from ktqueue.sql.clock import Clock
from ktqueue.sql.database import Database
from ktqueue.webhook import DeliveryState, Disabled, EventType
from ktqueue.webhook_policy import Circuit


class SqlOutbox:
    """Implements `Outbox`; see there."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's, as of `SqlStore`. Make it after a fork."""
        self._database = Database(url)
        self._clock = Clock(self._read_clock)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def now(self) -> int:
        """The database's clock, extrapolated for some seconds."""
        return self._clock.now()

    def _read_clock(self) -> int:
        with self._database.reader() as connection:
            return int(connection.execute(statements.NOW).scalar_one())

    def due_targets(self) -> list[DueTarget]:
        """Receivers that something is due for, and whose circuit is not open."""
        with self._database.reader() as connection:
            rows = connection.execute(statements.DUE_TARGETS).all()
        return [DueTarget(target, None if circuit[0] is None else Circuit(*circuit)) for target, *circuit in rows]

    def claim(self, wanted: Mapping[str, int], *, token: str, sender: str, lease_ms: int) -> list[Delivery]:
        """Take what is due, up to so many deliveries of each target, the longest due first."""
        given = {"new_token": token, "new_sender": sender, "lease_ms": lease_ms}
        claimed: list[Delivery] = []
        with self._database.transaction() as connection:
            for target, most in wanted.items():
                rows = connection.execute(statements.CLAIM, given | {"for_target": target, "most": most})
                claimed += _deliveries_of(rows)
            # Where only one is to be tried, nobody else tries as well.
            held = {"ids": list(wanted), "lease_ms": lease_ms}
            connection.execute(statements.HOLD_CIRCUIT, held)
        return sorted(claimed, key=lambda delivery: (delivery.at, delivery.id))

    def settle(self, settlements: Sequence[Settlement], circuits: Mapping[str, Circuit | None]) -> set[int]:
        """Write down attempts and what follows from them, and how targets fare; the ids that changed."""
        with self._database.transaction() as connection:
            ids = [settlement.delivery_id for settlement in settlements]
            held = {row.id: row for row in connection.execute(statements.HELD, {"ids": ids})}
            ours = [each for each in settlements if _holds(each, held.get(each.delivery_id))]
            if ours:
                now = int(connection.execute(statements.NOW).scalar_one())
                attempts = [_attempt_row(each, held[each.delivery_id].attempts + 1, now) for each in ours]
                connection.execute(statements.KEEP_ATTEMPT, attempts)
                statements.SETTLE(connection, [_settled_row(each) for each in ours])
            self._keep_circuits(connection, circuits)
        return {each.delivery_id for each in ours}

    @staticmethod
    def _keep_circuits(connection: sa.Connection, circuits: Mapping[str, Circuit | None]) -> None:
        # In one order for all, so that no two senders wait for each other.
        targets = sorted(circuits)
        if well := [target for target in targets if circuits[target] is None]:
            connection.execute(statements.FORGET_CIRCUITS, {"ids": well})
        if failing := [
            {"target": target} | asdict(circuit) for target in targets if (circuit := circuits[target]) is not None
        ]:
            connection.execute(statements.KEEP_CIRCUIT, failing)

    def circuits(self, targets: Sequence[str]) -> dict[str, Circuit]:
        """How targets fare; one that is well has no entry."""
        with self._database.reader() as connection:
            rows = connection.execute(statements.CIRCUITS, {"ids": list(targets)}).all()
        return {target: Circuit(*circuit) for *circuit, target in rows}

    def disable(self, endpoint_id: str, why: Disabled) -> int:
        """Tell an enabled endpoint nothing more; what is pending for it fails."""
        with self._database.transaction() as connection:
            connection.execute(statements.DISABLE, {"endpoint_id": endpoint_id, "why": str(why)})
            return connection.execute(statements.GIVE_UP, {"endpoint_id": endpoint_id}).rowcount

    def senders(self) -> list[str]:
        """Every sender that holds deliveries."""
        with self._database.reader() as connection:
            return list(connection.execute(statements.SENDERS).scalars())

    def release(self, sender: str) -> int:
        """Make due what a sender holds that is known to be gone; how many that were."""
        with self._database.transaction() as connection:
            return connection.execute(statements.RELEASE, {"gone": sender}).rowcount

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Commit a new endpoint."""
        with self._database.writer() as connection:
            connection.execute(statements.ADD_ENDPOINT, asdict(endpoint))

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint as it is now."""
        found = self.endpoints([endpoint_id])
        return found[0] if found else None

    def endpoints(self, ids: Sequence[str]) -> list[Endpoint]:
        """Those with these ids; the oldest first."""
        with self._database.reader() as connection:
            return [_endpoint_of(row) for row in connection.execute(statements.ENDPOINTS_GIVEN, {"ids": list(ids)})]

    def endpoints_of(self, tenant: str) -> list[Endpoint]:
        """All of a tenant's; the oldest first."""
        with self._database.reader() as connection:
            return [_endpoint_of(row) for row in connection.execute(statements.ENDPOINTS_OF, {"owner": tenant})]

    def change_endpoint(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint | None:
        """Write what ``change`` makes of an endpoint; what it then is. One that is enabled has no circuit any more."""
        with self._database.transaction() as connection:
            row = connection.execute(statements.HOLD_ENDPOINT, {"ids": [endpoint_id]}).one_or_none()
            if row is None:
                return None
            endpoint = _endpoint_of(row)
            kept = {"id", "created_at", "tenant"}
            changed = replace(change(endpoint), **{name: getattr(endpoint, name) for name in kept})
            given = {f"new_{name}": value for name, value in asdict(changed).items() if name not in kept}
            connection.execute(statements.CHANGE_ENDPOINT, given | {"endpoint_id": endpoint_id})
            if changed.disabled is None:
                connection.execute(statements.FORGET_CIRCUITS, {"ids": [endpoint_id]})
            else:
                connection.execute(statements.GIVE_UP, {"endpoint_id": endpoint_id})
        return changed

    def delete_endpoint(self, endpoint_id: str) -> bool:
        """Delete it with its deliveries; whether it was there."""
        with self._database.transaction() as connection:
            deleted = connection.execute(statements.DELETE_ENDPOINT, {"endpoint_id": endpoint_id}).rowcount == 1
            for statement in statements.FORGET_ENDPOINT:
                connection.execute(statement, {"endpoint_id": endpoint_id})
        return deleted

    def add_test(self, endpoint_id: str) -> Delivery | None:
        """A pending delivery of a test event; None if there is no such endpoint."""
        with self._database.transaction() as connection:
            # One after the other, so that each is of a moment of its own.
            connection.execute(statements.HOLD_ENDPOINT, {"ids": [endpoint_id]})
            made = _deliveries_of(connection.execute(statements.ADD_TEST, {"endpoint_id": endpoint_id}))
        return made[0] if made else None

    def delivery(self, delivery_id: int) -> Delivery | None:
        """The delivery as it is now."""
        with self._database.reader() as connection:
            found = _deliveries_of(connection.execute(statements.GET, {"delivery_id": delivery_id}))
        return found[0] if found else None

    def deliveries(self, query: DeliveryQuery) -> list[Delivery]:
        """Those that match, newest first."""
        with self._database.reader() as connection:
            return _deliveries_of(connection.execute(statements.search(query)))

    def attempts(self, delivery_ids: Sequence[int]) -> list[DeliveryAttempt]:
        """The attempts of these deliveries, the oldest first."""
        with self._database.reader() as connection:
            rows = connection.execute(statements.ATTEMPTS, {"ids": list(delivery_ids)}).all()
        return [DeliveryAttempt(*row) for row in rows]

    def redeliver(self, delivery_id: int) -> Delivery | None:
        """Begin anew, due at once, unless it is under way; the delivery as it now is."""
        with self._database.writer() as connection:
            connection.execute(statements.REDELIVER, {"delivery_id": delivery_id})
        return self.delivery(delivery_id)

    def replay(self, endpoint_id: str, since: int) -> int:
        """Begin anew everything that failed of what happened to an endpoint since then; how many that were."""
        with self._database.writer() as connection:
            return connection.execute(statements.REPLAY, {"endpoint_id": endpoint_id, "since": since}).rowcount

    def prune_tests(self, before: int, limit: int) -> int:
        """Delete tests that were sent before then; the other deliveries go with their jobs."""
        with self._database.transaction() as connection:
            ids = list(connection.execute(statements.OLD_TESTS, {"before": before, "most": limit}).scalars())
            for statement in statements.PRUNE_TESTS:
                connection.execute(statement, {"ids": ids})
        return len(ids)


def _deliveries_of(result: sa.Result[Any]) -> list[Delivery]:
    return [_delivery_of(row) for row in result.all()]


_STATE = tuple(Delivery.__dataclass_fields__).index("state")
_TYPE = tuple(Delivery.__dataclass_fields__).index("type")
_STATES = {str(state): state for state in DeliveryState}


def _delivery_of(row: Sequence[Any]) -> Delivery:
    values = list(row)
    values[_STATE] = _STATES[values[_STATE]]
    values[_TYPE] = EventType(values[_TYPE])
    return Delivery(*values)


def _endpoint_of(row: sa.Row[Any]) -> Endpoint:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["events"] = EventType(values["events"])
    values["disabled"] = None if values["disabled"] is None else Disabled(values["disabled"])
    return Endpoint(**values)


def _holds(settlement: Settlement, row: Any) -> bool:
    return row is not None and row.token == settlement.token


def _attempt_row(settlement: Settlement, number: int, now: int) -> dict[str, Any]:
    answer = settlement.answer
    return {
        "delivery_id": settlement.delivery_id,
        "number": number,
        "at": now - answer.duration_ms,
        "duration_ms": answer.duration_ms,
        "status": answer.status,
        "error": answer.error,
        "answer": answer.body.replace("\0", "�"),  # which PostgreSQL does not take in a text
    }


def _settled_row(settlement: Settlement) -> dict[str, Any]:
    return {
        "delivery_id": settlement.delivery_id,
        "held_token": settlement.token,
        "new_state": str(settlement.state),
        "new_next_at": settlement.next_at,
    }
