"""FlashAttention-2 as it is found installed, and how it is asked; the kernels themselves are in tests/gpu."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.attention import Shape, forward
from tests.support.flash import flash_attn_varlen_func
from worker.engines.causal.attention.base import LayerShape
from worker.engines.causal.attention.flash_installed import HUB, FlashInstalled, installed
from worker.engines.causal.attention.flash_pages import FlashPages, unfit
from worker.engines.causal.attention.trial import fault_of

PACKAGE = "from tests.support.flash import flash_attn_varlen_func\n"
KERNELS = """
def install_kernel(repo, *, version, local_files_only):
    assert local_files_only, "nothing is downloaded"
    if (repo, version) != ({hub!r}, {cached}):
        raise ValueError(f"Version {{version}} of '{{repo}}' is not available in the local cache")
    return "its folder"

def get_local_kernel(folder):
    assert folder == "its folder"
    from tests.support import flash
    return flash
"""

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a module of this name and text importable; it is forgotten afterwards."""

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        # Taken note of, and so restored to its absence.
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)

    monkeypatch.syspath_prepend(tmp_path)
    return put


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 5.0), (100, 5.0)])
def test_it_is_asked_for_what_is_defined(window: int | None, softcap: float | None) -> None:
    attention = FlashPages(FlashInstalled(flash_attn_varlen_func))
    made = forward([1, 9, 300], [(5, 0), (7, 260)], Shape(2, 3, 16, 16), block_size=256, padding=2)
    made.check(attention, window=window, softcap=softcap)


def test_the_package_is_taken_first(install: Install) -> None:
    install("kernels", "raise ImportError('not asked')")
    install("flash_attn", PACKAGE)
    assert installed() is flash_attn_varlen_func


def test_the_hub_s_cache_is_asked_next(install: Install) -> None:
    install("kernels", KERNELS.format(hub=HUB, cached=4))
    assert installed() is flash_attn_varlen_func


def test_what_is_not_in_the_cache_is_told_and_not_downloaded(install: Install) -> None:
    install("kernels", KERNELS.format(hub=HUB, cached=3))
    with pytest.raises(ImportError, match="kernels finds no version 4 of kernels-community/flash-attn2 in the hub's"):
        installed()


@pytest.mark.parametrize("text", ["", "def install_kernel(repo, revision): ..."])
def test_an_older_kernels_is_no_crash(install: Install, text: str) -> None:
    install("kernels", text)
    with pytest.raises(ImportError, match="kernels finds no version 4"):
        installed()


def test_where_there_is_neither_both_are_named() -> None:
    with pytest.raises(ImportError, match="neither flash-attn is, nor kernels"):
        installed()


CPU = torch.device("cpu")
LAYERS = [LayerShape(2, 16, 16, torch.float32, window, softcap) for window, softcap in ((None, None), (40, 5.0))]


def test_one_that_answers_rightly_is_trusted() -> None:
    assert fault_of(FlashPages(FlashInstalled(flash_attn_varlen_func)), CPU, torch.float32, LAYERS) is None


def test_one_that_answers_wrongly_is_not() -> None:
    def without_softcap(*given: Any, softcap: float, **named: Any) -> torch.Tensor:
        del softcap
        return flash_attn_varlen_func(*given, softcap=0.0, **named)

    attention = FlashPages(FlashInstalled(without_softcap))
    assert fault_of(attention, CPU, torch.float32, LAYERS[:1]) is None
    assert "answers wrongly here: off by" in (fault_of(attention, CPU, torch.float32, LAYERS) or "")


def test_one_that_answers_wrongly_where_rows_only_decode_is_not() -> None:
    def with_rows_exchanged(*given: Any, **named: Any) -> torch.Tensor:
        answer = flash_attn_varlen_func(*given, **named)
        return answer.flip(0) if given[5] == 1 else answer

    fault = fault_of(FlashPages(FlashInstalled(with_rows_exchanged)), CPU, torch.float32, LAYERS)
    assert "answers wrongly here: off by" in (fault or "")


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), TypeError("unexpected keyword 'block_table'")])
def test_one_that_raises_is_not(error: Exception) -> None:
    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise error

    fault = fault_of(FlashPages(FlashInstalled(broken)), CPU, torch.float32, LAYERS)
    assert fault == f"does not run here: {error}"


@pytest.mark.parametrize(
    ("key_dim", "value_dim", "softcap", "softcaps", "why"),
    [
        (128, 128, None, False, None),
        (256, 256, 50.0, True, None),
        (128, 128, 50.0, False, "knows no soft caps"),
        (192, 128, None, True, "these have 192 and 128"),
        (100, 100, None, True, "a multiple of 8 up to 256"),
        (512, 512, None, True, "a multiple of 8 up to 256"),
    ],
)
def test_models_that_it_can_not_serve_are_told_why(
    key_dim: int, value_dim: int, softcap: float | None, softcaps: bool, why: str | None
) -> None:
    shape = LayerShape(4, key_dim, value_dim, torch.bfloat16, None, softcap)
    reason = unfit([shape], softcaps=softcaps)
    assert reason is None if why is None else why in (reason or "")
