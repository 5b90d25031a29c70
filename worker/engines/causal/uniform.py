"""Random numbers that are looked up, not drawn: the n-th of a stream depends on the stream and on n alone.

So a device makes those of many rows at once, nothing has to be carried along, and whoever else is in the batch makes no
difference. The numbers are those of SplitMix64 (G. L. Steele et al., "Fast splittable pseudorandom number generators",
2014), in the wrapping arithmetic of signed 64-bit integers, which all devices have.
"""

from __future__ import annotations

import torch

GAMMA = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
WORD = 2**64
BITS = 53
"""As many as float64 has in its fraction."""


def stream_of(seed: int, choice: int = 0) -> int:
    """The stream of one of a request's choices, as a signed 64-bit integer; ``seed`` has at most 64 bits."""
    return _signed(_mixed(_mixed(seed + GAMMA) + (choice + 1) * GAMMA))


def uniforms(streams: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The number in [0, 1) at place ``counts`` of each stream: (rows,) float64 from two of int64. Capturable."""
    z = streams + (counts + 1) * _signed(GAMMA)
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    z = z ^ _shifted(z, 31)
    return _shifted(z, 64 - BITS).double() * 2.0**-BITS


def _mixed(z: int) -> int:
    z %= WORD
    z = (z ^ (z >> 30)) * FIRST % WORD
    z = (z ^ (z >> 27)) * SECOND % WORD
    return z ^ (z >> 31)


def _signed(value: int) -> int:
    return value - WORD if value >= WORD // 2 else value


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left; int64 itself repeats its sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
