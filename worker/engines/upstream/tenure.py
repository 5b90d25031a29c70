"""Which of its instances are ours: one slot in the world uses an instance, by a lease in the database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ktqueue.errors import StoreUnavailable
from ktqueue.leases.base import Leases, Taken
from worker.engines.upstream.instance import Instance

LEASE_S = 10.0
MARGIN_S = 1.0
"""So long before a lease can end nothing is sent any more, and what is under way is left."""
RENEW_S = 2.0

logger = logging.getLogger(__name__)


class Tenure:
    """Takes and renews the leases of ``instances`` for ``holder``. ``clock`` is monotonic, in seconds.

    A lease is counted from before it was asked for: by this clock it ends before it does by the database's, even if
    the answer took long, or never came.
    """

    def __init__(
        self,
        leases: Leases,
        instances: Sequence[Instance],
        *,
        alias: str,
        holder: str,
        clock: Callable[[], float],
    ) -> None:
        self._leases = leases
        self._by_name = {f"{alias} {instance.spec.url}": instance for instance in instances}
        self._holder = holder
        self._clock = clock
        self.asked = False
        """Whether the database has said once what is ours."""

    def ask(self) -> Callable[[], None] | None:
        """Take what is free and renew what is ours: what there is to do then, where instances are not used meanwhile.

        May wait for the database. None: it did not answer.
        """
        began = self._clock()
        try:
            taken = self._leases.take(self._by_name, self._holder, for_ms=int(LEASE_S * 1000))
        except StoreUnavailable as error:
            logger.debug("no lease is renewed: %s", error)
            return None

        def note() -> None:
            for name, how in taken.items():
                instance = self._by_name[name]
                if how is Taken.LEFT:
                    # Whoever had it did not end well, and may have left a request there.
                    instance.left(self._clock())
                instance.held_until = began + LEASE_S - MARGIN_S
            for name in self._by_name.keys() - taken.keys():
                self._by_name[name].held_until = 0.0
            self.asked = True

        return note

    def lapsed(self) -> list[Instance]:
        """Those that may not be used now and still have something of us."""
        now = self._clock()
        return [each for each in self._by_name.values() if each.calls and not each.held(now)]

    def leave(self) -> None:
        """Let others have what is ours, but for instances that may be busy with what we left there."""
        now = self._clock()
        left = {name for name, each in self._by_name.items() if each.one_at_a_time and not each.usable(now)}
        held = [name for name, each in self._by_name.items() if each.held(now) and name not in left]
        try:
            self._leases.release(held, self._holder)
        except StoreUnavailable as error:
            logger.debug("leases are left to run out: %s", error)
