"""What goes wrong inside an engine, and who has to bear it."""

from __future__ import annotations

import torch

from ktqueue.job import JobError


class Refused(Exception):
    """A request that can never run here. ``str()`` of it is for the client."""

    def __init__(self, message: str, *, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.error = JobError(code, message)


class DeviceLost(Exception):
    """A process that computes for this one is gone, or does not get on with its work."""


def too_long(what: str, tokens: int, most: int) -> Refused:
    """``what`` has more ``tokens`` than the ``most`` that the model takes."""
    return Refused(f"{what} has {tokens} tokens; the model takes at most {most}", code="context_length_exceeded")


def not_finite() -> JobError:
    """A model's answer for one request is not a number."""
    return JobError("engine_error", "the model's output for this input is not a number (NaN)")


def blame(error: Exception) -> JobError:
    """How a request that made a forward fail is told. Memory may be free again later, so that is worth a retry."""
    if out_of_memory(error):
        return JobError("engine_error", "the device ran out of memory", retryable=True)
    reason = str(error).strip().partition("\n")[0]
    return JobError("engine_error", f"{type(error).__name__}: {reason}"[:300])


def out_of_memory(error: Exception) -> bool:
    """Whether a device's or this machine's memory was not enough."""
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def is_fatal(error: Exception) -> bool:
    """Whether the device is lost to this process, as after an assertion or an illegal access in a kernel."""
    return isinstance(error, torch.AcceleratorError | DeviceLost)
