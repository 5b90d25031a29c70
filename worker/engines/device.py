"""Where a model computes, with how many threads, and how much memory there is."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from shutil import which

import torch

from ktqueue.batching import Rules
from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(spec: ModelSpec, name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises ConfigurationError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    index, found = device.index or 0, torch.cuda.device_count()
    if index >= found:
        raise ConfigurationError(f"model {spec.alias!r}: device {name!r} is not there; CUDA devices: {found}")
    return torch.device("cuda", index)


def stay_on(device: torch.device) -> None:
    """Let whatever names no GPU, kernels and pinned memory among them, mean this one and take nothing of another."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def described(spec: ModelSpec, name: str) -> str:
    """The device that `choose_device` chooses, for people. Raises ConfigurationError."""
    device = choose_device(spec, name)
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def use_threads(count: int) -> None:
    """Let this process compute with so many threads; 0 leaves it to torch, which takes one a core."""
    if count:
        torch.set_num_threads(count)


def has_compiler() -> bool:
    """Whether there is the C compiler that Triton, and so torch.compile, makes its kernels callable with."""
    return any(which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))


def cache_bytes(spec: ModelSpec, device: torch.device) -> int:
    """How much memory keys and values may take: what the catalogue says, or else what can be spared.

    On a GPU that is nearly all that is free, for nobody else needs it; on a CPU a quarter, for others do.
    """
    if spec.cache_gb is not None:
        return int(spec.cache_gb * 1e9)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.95)
    return free_memory() // 4


def free_memory() -> int:
    """Bytes that this process could still take: what is available, or left under the limit of its control group."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):  # only Linux has it
        told = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        limits += [int(told[1]) * 1024] if told else []
    with suppress(OSError, ValueError):  # there is no such group, or its limit is "max"
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        limits.append(max(0, limit - used))
    return min(limits)


def rules(spec: ModelSpec, device: torch.device) -> Rules:
    """How batches are cut on this device. Starting a forward takes a CPU as long as some 50 tokens, a GPU thousands."""
    return Rules(budget=spec.tokens_per_step, overhead=4096 if device.type == "cuda" else 48)
