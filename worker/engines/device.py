"""Where a model computes, with how many threads, and how much memory there is."""

from __future__ import annotations

import os

import torch

from ktqueue.batching import Rules
from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(spec: ModelSpec) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises ConfigurationError for a device that is not there."""
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(spec.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigurationError(f"model {spec.alias!r}: device {spec.device!r} is not there; CUDA devices: {found}")
    return device


def use_threads(count: int) -> None:
    """Let this process compute with so many threads; 0 leaves it to torch, which takes one a core."""
    if count:
        torch.set_num_threads(count)


def cache_bytes(device: torch.device) -> int:
    """How much memory keys and values may take: most of what is free on a GPU, a quarter of the machine's on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.7)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def rules(spec: ModelSpec, device: torch.device) -> Rules:
    """How batches are cut on this device. Starting a forward takes a CPU as long as some 50 tokens, a GPU thousands."""
    return Rules(budget=spec.tokens_per_step, overhead=4096 if device.type == "cuda" else 48)
