"""What arrivals of webhooks must not hold: the rules of the checker about them. Pure, as the others are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.chaos.history import Arrival
from tests.chaos.known import Known, Sighting, Violation


def untold(known: Known) -> list[tuple[str, str]]:
    """(job, receiver) where the receiver was to be told of the job's end, and has not taken that event."""
    found = []
    for job_id in known.sightings:
        receivers = known.receivers(job_id) if known.ends(job_id) else set()
        taken = {each.receiver for each in known.told(job_id) if each.taken and each.job.terminal}
        found += [(job_id, receiver) for receiver in sorted(receivers - taken)]
    return found


def webhook_lost(known: Known) -> Iterator[Violation]:
    """Whoever is to be told of an end is told. (The history goes on until each retry has had its time.)"""
    for job_id, receiver in untold(known):
        came = [f"{each.event_id} at {each.at:.3f}" for each in known.told(job_id) if each.receiver == receiver]
        yield Violation(
            "webhook lost", job_id, f"its {receiver} was never told of {known.ends(job_id)[0]}; came: {came}"
        )


def payload_changed(known: Known) -> Iterator[Violation]:
    """One event has the same bytes whenever it arrives, and wherever."""
    for job_id, arrivals in known.arrivals.items():
        first: dict[str, Arrival] = {}
        for arrival in arrivals:
            if first.setdefault(arrival.event_id, arrival).digest != arrival.digest:
                yield Violation("payload changed", job_id, f"{first[arrival.event_id]} | {arrival}")


def told_before_commit(known: Known) -> Iterator[Violation]:
    """What is told has happened: an end that arrives is the one that everybody sees from then on."""
    for job_id, arrivals in known.arrivals.items():
        for arrival in arrivals:
            if why := _untrue(arrival, known.sightings.get(job_id, [])):
                yield Violation("told before commit", job_id, f"{why} | {arrival}")
                break


def _untrue(arrival: Arrival, sightings: list[Sighting]) -> str | None:
    if not sightings:
        return "nobody saw that job"
    if not arrival.job.terminal:
        return None
    for sighting in sightings:
        later = sighting.operation.began > arrival.at
        if sighting.job != arrival.job and (later or sighting.job.terminal):
            return str(sighting)
    return None


def out_of_order(known: Known) -> Iterator[Violation]:
    """The events of a job reach each receiver in order, unless it failed meanwhile."""
    downs = [(action.began, action.ended) for action in known.actions if action.kind == "receiver down"]
    for job_id, arrivals in known.arrivals.items():
        began = known.accepted[job_id].began if job_id in known.accepted else float("-inf")
        if any(down <= arrivals[-1].at and began <= ended for down, ended in downs):
            continue
        for receiver in sorted({each.receiver for each in arrivals}):
            moments = list(dict.fromkeys(each.moment for each in arrivals if each.receiver == receiver))
            if moments != sorted(moments):
                yield Violation("out of order", job_id, f"{receiver}: {moments}")


def bad_signature(known: Known) -> Iterator[Violation]:
    """Every webhook verifies."""
    for job_id, arrivals in known.arrivals.items():
        for arrival in arrivals:
            if arrival.flaw is not None:
                yield Violation("bad signature", job_id, str(arrival))
                break


RULES: tuple[Callable[[Known], Iterator[Violation]], ...] = (
    webhook_lost,
    payload_changed,
    told_before_commit,
    out_of_order,
    bad_signature,
)
