"""What the workers count for Prometheus: names, units and labels. docs/metrics.md shows the same.

Labels are models of the catalogue, devices of this machine, and words from fixed sets.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge

from ktqueue.execution import Settled
from ktqueue.job import Job, JobState
from ktqueue.sweep import Repairs
from ktqueue.webhook import Answer
from worker.engines.base import Vitals
from worker.engines.device_use import DeviceUse
from worker.group_histogram import GroupHistogram
from worker.shares import Share
from worker.tempo import Spoken

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
STEPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(2**power for power in range(13))
"""1 to 4096: as large as `max_batch` may be."""
GAVE_BACK, RETRIED = "given_back", "retried"
OUTCOMES = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
    JobState.QUEUED: RETRIED,
}
NO_ANSWER = "none"
RESULTS = ("2xx", "3xx", "4xx", "5xx", NO_ANSWER)


class Work(NamedTuple):
    """Steps, the time they took, and the jobs they had in all."""

    steps: int = 0
    seconds: float = 0.0
    jobs: int = 0


class LaneMetrics:
    """Of one slot; implements `LaneMeter`. Made after a fork, once the process has its ledger."""

    def __init__(self, model: str, registry: CollectorRegistry | None = None) -> None:
        def counter(name: str, means: str) -> Counter:
            return Counter(name, means, ["model"], registry=registry).labels(model)

        def histogram(name: str, means: str, buckets: Sequence[float]) -> GroupHistogram:
            return GroupHistogram(name, means, ["model"], registry=registry, buckets=buckets).labels(model)

        def gauge(name: str, means: str) -> Gauge:
            return Gauge(name, means, ["model"], registry=registry, multiprocess_mode="livesum").labels(model)

        self._queue = histogram(
            "ktqueue_job_queue_seconds", "From the submission of a job to its first claim by a slot.", WAITS_S
        )
        self._run = histogram("ktqueue_attempt_seconds", "From the claim of a job to the end of that attempt.", WAITS_S)
        self._first = histogram(
            "ktqueue_time_to_first_token_seconds", "From the submission of a job to the first text of it.", WAITS_S
        )
        self._pause = histogram(
            "ktqueue_time_between_tokens_seconds", "From one piece of a job's text to the next.", STEPS_S
        )
        self._step = histogram("ktqueue_step_seconds", "How long a step of the engine took.", STEPS_S)
        self._batch = histogram("ktqueue_step_jobs", "Jobs that were in the engine during a step.", SIZES)
        attempts = Counter(
            "ktqueue_attempts", "Attempts of jobs that ended in a slot, by outcome.", ["model", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._attempts = {outcome: attempts.labels(model, outcome) for outcome in (*OUTCOMES.values(), GAVE_BACK)}
        self._retries = counter("ktqueue_retries", "Attempts that failed and are made again.")
        self._vitals = {
            "prompt_tokens": counter("ktqueue_prompt_tokens", "Tokens that came in: of prompts, or of texts."),
            "generated_tokens": counter("ktqueue_generated_tokens", "Tokens that went out."),
            "padding_tokens": counter(
                "ktqueue_padding_tokens", "Tokens that were computed only to make rows of a batch equally long."
            ),
            "draft_tokens": counter(
                "ktqueue_draft_tokens", "Tokens that were guessed to come next, and computed along."
            ),
            "accepted_tokens": counter("ktqueue_accepted_tokens", "Those of them that were right."),
            "preemptions": counter(
                "ktqueue_preemptions", "Times that a request lost its KV blocks and was computed again later."
            ),
        }
        self._blocks = gauge("ktqueue_kv_blocks", "Blocks of the cache of keys and values, in all slots.")
        self._blocks_used = gauge("ktqueue_kv_blocks_used", "Those of them that requests use.")
        self._device_used, self._device_total, self._device_busy = (
            Gauge(f"ktqueue_device_{name}", means, ["device"], registry=registry, multiprocess_mode="livemax")
            for name, means in (
                ("memory_used_bytes", "Memory in use on a GPU that a slot computes on, whoever uses it."),
                ("memory_bytes", "Memory of that GPU."),
                ("utilization_ratio", "Of the last moment, the part in which that GPU computed (0-1), by NVML."),
            )
        )
        self._before = Vitals()
        self._work = Work()

    def claimed(self, jobs: Sequence[Job]) -> None:
        """These were claimed together."""
        # Written out, for there are many: a call for each would cost as much as all the rest of this.
        self._queue.observe_all(
            [
                (started - job.created_at) / 1000 if started > job.created_at else 0.0
                for job in jobs
                if job.claims == 1 and (started := job.started_at) is not None
            ]
        )

    def stepped(self, seconds: float, jobs: int) -> None:
        """A step took so long, with so many jobs in the engine."""
        if jobs:
            self._step.observe(seconds)
            self._batch.observe(jobs)
            before = self._work
            self._work = Work(before.steps + 1, before.seconds + seconds, before.jobs + jobs)

    def spoke(self, spoken: Spoken) -> None:
        """Text came of a step."""
        self._first.observe_all(spoken.firsts)
        self._pause.observe_all(spoken.pauses)

    def settled(self, settled: Sequence[tuple[Settled, Share]]) -> None:
        """These verdicts were committed."""
        self._run.observe_all([share.seconds for _, share in settled])
        for (state, well), count in Tally(
            [(verdict.state, verdict.error is None) for (_, verdict), _ in settled]
        ).items():
            # One that is queued again without an error was no failure: nobody could take it.
            outcome = GAVE_BACK if state is JobState.QUEUED and well else OUTCOMES[state]
            self._attempts[outcome].inc(count)
            if outcome == RETRIED:
                self._retries.inc(count)

    def gave_back(self, jobs: int) -> None:
        """So many did not fit the time after a stop."""
        self._attempts[GAVE_BACK].inc(jobs)

    def work(self) -> Work:
        """All steps until now. May be asked from another thread."""
        return self._work

    def vitals(self, vitals: Vitals) -> None:
        """How the engine does now; it is the same one each time."""
        for name, counter in self._vitals.items():
            counter.inc(getattr(vitals, name) - getattr(self._before, name))
        self._blocks.set(vitals.blocks)
        self._blocks_used.set(vitals.blocks_used)
        self._before = vitals

    def device(self, use: DeviceUse) -> None:
        """How the device does now."""
        self._device_used.labels(use.name).set(use.used_bytes)
        self._device_total.labels(use.name).set(use.total_bytes)
        if use.busy is not None:
            self._device_busy.labels(use.name).set(use.busy)


class DeliveryMetrics:
    """Of one sender; implements `DeliveryMeter`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        answers = Counter(
            "ktqueue_deliveries", "Requests to webhooks, by the class of the answer; `none`: nobody answered.",
            ["answer"], registry=registry,
        )  # fmt: skip
        self._answers = {result: answers.labels(result) for result in RESULTS}
        self._took = GroupHistogram(
            "ktqueue_delivery_seconds", "How long a request to a webhook took.", registry=registry, buckets=WAITS_S[:12]
        )

    def answered(self, answers: Sequence[Answer]) -> None:
        """What came of these requests was committed."""
        self._took.observe_all([answer.duration_ms / 1000 for answer in answers])
        for result, count in Tally([_class_of(answer) for answer in answers]).items():
            self._answers[result].inc(count)


class RepairMetrics:
    """Of the light worker."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._repairs = Counter(
            "ktqueue_repairs", "What the sweep put right: jobs, and deliveries that were `redelivered`.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.repaired(Repairs(recovered=0, expired=0, woken=0, requeued=0))

    def repaired(self, repairs: Repairs) -> None:
        """One sweep did this."""
        for kind, count in asdict(repairs).items():
            self._repairs.labels(kind).inc(count)


def _class_of(answer: Answer) -> str:
    result = NO_ANSWER if answer.status is None else f"{answer.status // 100}xx"
    return result if result in RESULTS else NO_ANSWER
