"""Weights that were saved quantised: their tokens are those of `generate` of the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from tests.support.engines import Run, generate, greedy, loaded
from tests.support.quantised import need, save_quantised, there
from tests.support.tiny_models import byte_tokenizer, save_causal
from worker.engines.base import Request
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice
from worker.engines.causal.fitting import quicken
from worker.engines.causal.paged import attending, prepare, unpaged
from worker.engines.causal.pipeline.cutting import Cutter
from worker.engines.device import DTYPES
from worker.engines.packed import is_plain
from worker.engines.quantised import load_model

WORDS = "a brown fox and the lazy dog went over hills to see what is there for tea"
CPU = torch.device("cpu")
KINDS = [
    "torchao int8",
    "torchao int4",
    "compressed-tensors int4",
    pytest.param(
        "bitsandbytes nf4",
        marks=pytest.mark.skipif(not there("bitsandbytes nf4"), reason="40 MB: not among what tests install"),
    ),
]


def spec_of(folder: Path, **entries: Any) -> ModelSpec:
    given = {"alias": "m", "engine": "causal", "source": f"path:{folder}", "device": "cpu", "cache_gb": 0.01}
    return ModelSpec.model_validate(given | entries)


def asked() -> list[Request]:
    return [generate(f"r{i}", WORDS[i : 7 * i + 3], max_tokens=5 + 4 * i) for i in range(6)]


def assert_as_generate(run: Run, folder: Path, dtype: str = "float32") -> None:
    """The reference is loaded by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype])
    for request in asked():
        ids = byte_tokenizer()(request.input["prompt"]).input_ids
        assert run.result(request.id)["tokens"] == greedy(model, ids, request.params["max_tokens"])


def model_of(engine: object) -> PreTrainedModel:
    assert isinstance(engine, CausalEngine)
    assert isinstance(engine._executor, OneDevice)
    return engine._executor._stage._part.model


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_generate_whoever_joins(tmp_path: Path, kind: str) -> None:
    save_quantised(kind, tmp_path)
    engine = loaded(spec_of(tmp_path, max_batch=4, tokens_per_step=16))
    run = Run(engine)
    for request in asked():
        while engine.capacity() == 0:
            run.step()
        run.submit(request)
        run.step()
    run.end()
    assert_as_generate(run, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_change_no_token(tmp_path: Path, kind: str) -> None:
    save_quantised(kind, tmp_path)
    # Few tokens are likely enough, so that the text goes round.
    wish = generate("a", "fox and fox and ", max_tokens=40, logit_bias={"70": 12.0, "71": 12.0, "72": 12.0})
    plain, drafting = (loaded(spec_of(tmp_path, draft_tokens=most)) for most in (0, 6))
    assert Run(drafting, wish).end().result("a") == Run(plain, wish).end().result("a")
    assert drafting.vitals().accepted_tokens > 0


@pytest.mark.parametrize("kind", ["torchao int8", "compressed-tensors int4"])
def test_quantised_layers_stay_as_they_are_and_others_are_made_quicker(tmp_path: Path, kind: str) -> None:
    model = model_of(loaded(spec_of(save_quantised(kind, tmp_path))))
    names = {type(layer).__name__ for layer in model.base_model.modules()}
    unpacked = kind.startswith("compressed")
    assert ("_First" in names) == unpacked
    assert ("Linear" in names) == (not unpacked)
    assert "_FusedNorm" in names
    assert not is_plain(model.lm_head)


@pytest.mark.parametrize("kind", KINDS)
def test_stages_have_their_part_of_quantised_weights(tmp_path: Path, kind: str) -> None:
    spec = spec_of(save_quantised(kind, tmp_path))
    ids, positions = torch.arange(7), torch.arange(7)
    parts = [Cutter(spec).load(layers, CPU) for layers in (range(1), range(1, 2), range(2, 3))]
    timed = Cutter(spec).sketch(range(1, 2), CPU, first=False, last=False)
    whole = Cutter(spec).load(range(3), CPU)
    for part in (*parts, timed, whole):
        prepare(part)
        quicken(part, compiled=False)
    with torch.inference_mode(), attending(unpaged()):
        hidden = parts[0](ids, positions)
        assert torch.equal(timed(hidden, positions), parts[1](hidden, positions))
        assert torch.equal(parts[2](parts[1](hidden, positions), positions), whole(ids, positions))


def test_they_compute_in_what_they_were_quantised_from(tmp_path: Path) -> None:
    save_quantised("torchao int8", tmp_path, torch.bfloat16)
    with pytest.raises(ConfigurationError, match=r'quantised by torchao for bfloat16: set dtype = "bfloat16"$'):
        loaded(spec_of(tmp_path))
    assert len(Run(loaded(spec_of(tmp_path, dtype="bfloat16")), *asked()).end().finished) == len(asked())


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"quant_method": "exl3"}, "quantised by exl3, and can't be loaded: transformers does not know this method"),
        ({"bits": 3}, "quantised by an unnamed method, and can't be loaded: [^\n]*no `quant_method`"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "quantised by torchao, and can't be loaded: "),
        ({"quant_method": "vptq"}, "quantised by vptq, and can't be loaded: [^\n]*torchao, [^\n]*, are known to work"),
    ],
)
def test_what_can_not_be_loaded_names_the_model_the_method_and_what_to_do(
    llama: PreTrainedModel, tmp_path: Path, told: dict[str, Any], reason: str
) -> None:
    if told.get("quant_method") == "torchao":
        need("torchao")
    save_causal(llama, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    with pytest.raises(ConfigurationError, match=rf"^model 'm': its weights are {reason}"):
        loaded(spec_of(tmp_path))


class Family:
    """Loads nothing, and says why."""

    def __init__(self, missing: list[str], error: Exception | None = None) -> None:
        self._missing = missing
        self._error = error

    def from_pretrained(self, name: str, **_: Any) -> tuple[None, dict[str, list[str]]]:
        if self._error is not None:
            raise self._error
        return None, {"missing_keys": self._missing}


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (Family([], ModuleNotFoundError("no", name="torchao")), "takes the package 'torchao': install it"),
        (Family(["b", "a"]), "can't be loaded: it has no a, b"),
    ],
)
def test_a_package_or_weights_that_are_not_there_are_named(llama: PreTrainedModel, family: Family, reason: str) -> None:
    config = LlamaConfig.from_dict({"quantization_config": {"quant_method": "torchao"}})
    with pytest.raises(ConfigurationError, match=rf"^model 'm': its weights are quantised by torchao, [^\n]*{reason}"):
        load_model(family, "m", "name", config, CPU, dtype=torch.float32)
