"""From models.toml's words to an engine, or to one clear line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedModel

from ktqueue.errors import ConfigurationError
from ktqueue.job import Task
from ktqueue.models import ModelSpec
from tests.support.engines import Run, generate, loaded
from tests.support.tiny_models import CONTEXT, VOCABULARY, save_causal, tiny_llama, tiny_qwen3
from worker.engines.base import Request
from worker.engines.gguf_file import load_gguf

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
PICKY = "{{ raise_exception('roles must take turns') }}"


def causal_spec(source: str, **entries: int | str) -> ModelSpec:
    return ModelSpec.model_validate({"alias": "m", "engine": "causal", "source": source, "device": "cpu", **entries})


def test_a_folder_is_loaded_and_its_chat_template_used(llama: PreTrainedModel, tmp_path: Path) -> None:
    save_causal(llama, tmp_path, chat_template=CHAT)
    engine = loaded(causal_spec(f"path:{tmp_path}", max_batch=2))
    messages = [{"role": "user", "content": "tea"}]
    run = Run(
        engine,
        Request("chat", Task.GENERATE, {"messages": messages}, {"max_tokens": 5}),
        generate("plain", "<user>tea>", max_tokens=5),
    ).end()
    assert run.result("chat")["tokens"] == run.result("plain")["tokens"]
    assert engine.capacity() == 2


def test_a_template_s_refusal_is_the_client_s_to_read(llama: PreTrainedModel, tmp_path: Path) -> None:
    save_causal(llama, tmp_path, chat_template=PICKY)
    messages = [{"role": "user", "content": "tea"}]
    run = Run(loaded(causal_spec(f"path:{tmp_path}")), Request("a", Task.GENERATE, {"messages": messages}, {})).end()
    assert run.errors["a"].code == "invalid_request"
    assert run.errors["a"].message == "the model's chat template refuses these messages: roles must take turns"


def test_a_template_that_fails_fails_its_request_alone(llama: PreTrainedModel, tmp_path: Path) -> None:
    save_causal(llama, tmp_path, chat_template="{{ messages[0].tool_calls | tojson }}")
    chat = Request("a", Task.GENERATE, {"messages": [{"role": "user", "content": "tea"}]}, {})
    run = Run(loaded(causal_spec(f"path:{tmp_path}")), chat, generate("b", "tea", max_tokens=2)).end()
    assert run.errors["a"].code == "invalid_request"
    assert run.errors["a"].message.startswith("the model's chat template fails on these messages: TypeError")
    assert sorted(run.finished) == ["b"]


def test_the_context_is_the_catalogue_s_or_else_the_model_s(llama: PreTrainedModel, tmp_path: Path) -> None:
    save_causal(llama, tmp_path)
    for entries, most in (({}, CONTEXT), ({"context": 20}, 20)):
        run = Run(loaded(causal_spec(f"path:{tmp_path}", **entries)), generate("a", "x" * 100)).end()
        assert run.errors["a"].message == f"the prompt has 100 tokens; the model takes at most {most - 1}"


def learned() -> PreTrainedModel:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2, n_positions=CONTEXT)
    model: PreTrainedModel = GPT2LMHeadModel(config)
    return model


def learned_behind_others() -> PreTrainedModel:
    sizes: dict[str, Any] = {"hidden_size": 8, "ffn_dim": 8, "word_embed_proj_dim": 8, "num_attention_heads": 2}
    return OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, num_hidden_layers=1, max_position_embeddings=CONTEXT, **sizes)
    )


@pytest.mark.parametrize("make", [learned, learned_behind_others])
def test_there_is_no_context_beyond_learned_positions(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    save_causal(make(), tmp_path)
    engine = loaded(causal_spec(f"path:{tmp_path}", context=2 * CONTEXT))
    longest = generate("fits", "x" * (CONTEXT - 9), max_tokens=99, ignore_eos=True)
    run = Run(engine, longest, generate("long", "x" * CONTEXT)).end()
    assert run.errors["long"].message == f"the prompt has {CONTEXT} tokens; the model takes at most {CONTEXT - 1}"
    assert len(run.finished["fits"].result["tokens"]) == 9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_generates_too(llama: PreTrainedModel, tmp_path: Path, dtype: str) -> None:
    save_causal(llama, tmp_path)
    run = Run(loaded(causal_spec(f"path:{tmp_path}", dtype=dtype)), generate("a", "tea", max_tokens=4)).end()
    assert run.finished["a"].usage is not None


def test_what_can_not_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^model 'm': can't be loaded: [^\n]+$"):
        loaded(causal_spec(f"path:{tmp_path}"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ConfigurationError, match=r"^model 'm': [^\n]*x\.gguf[^\n]*$"):
        loaded(causal_spec(f"path:{tmp_path}/x.gguf"))
    with pytest.raises(ConfigurationError, match="device 'cuda:7' is not there; CUDA devices: "):
        loaded(causal_spec(f"path:{tmp_path}", device="cuda:7"))


def test_loading_says_nothing_and_takes_the_threads_it_was_given(llama: PreTrainedModel, tmp_path: Path) -> None:
    save_causal(llama, tmp_path)
    code = (
        "from ktqueue.models import ModelSpec; from worker.engines.registry import load\n"
        f"load(ModelSpec(alias='m', engine='causal', source='path:{tmp_path}', threads=1), ('cpu',))\n"
        "import os, torch; assert (torch.get_num_threads(), os.environ['OMP_WAIT_POLICY']) == (1, 'PASSIVE')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    *,
    architecture: str,
    without: str = "",
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
) -> None:
    """As llama.cpp's converter does it; matrices whose rows are whole blocks are of ``kind``."""
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.5, 1.5])
    writer.add_eos_token_id(1)
    for name, values in model.state_dict().items():
        weights, heads = values.numpy(), {"q": config.num_attention_heads, "k": config.num_key_value_heads}
        for which, count in heads.items():
            if architecture == "llama" and f"{which}_proj" in name:
                halves = weights.reshape(count, 2, weights.shape[0] // count // 2, -1)
                weights = halves.swapaxes(1, 2).reshape(weights.shape)
        if gguf_name(name) != without:
            blocks = weights.ndim == 2 and weights.shape[1] % 32 == 0
            stored = kind if blocks else GGMLQuantizationType.F32
            writer.add_tensor(gguf_name(name), quants.quantize(np.ascontiguousarray(weights), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    whole, _, kind = name.rpartition(".")
    if whole in GGUF_NAMES:
        return f"{GGUF_NAMES[whole]}.{kind}"
    _, _, layer, part = whole.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


@pytest.mark.parametrize(("make", "architecture"), [(tiny_llama, "llama"), (tiny_qwen3, "qwen3")])
def test_a_gguf_file_gives_the_model_that_was_written(
    make: Callable[[], PreTrainedModel], architecture: str, tmp_path: Path
) -> None:
    model = make()
    write_gguf(model, tmp_path / "m.gguf", architecture=architecture)
    read = load_gguf(tmp_path / "m.gguf", torch.float32)
    tokens = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(read(tokens).logits, model(tokens).logits)
    assert read.config.eos_token_id == 1


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_quantised_tensors_are_near_what_was_written(llama: PreTrainedModel, tmp_path: Path, kind: str) -> None:
    write_gguf(llama, tmp_path / "m.gguf", architecture="llama", kind=GGMLQuantizationType[kind])
    read = load_gguf(tmp_path / "m.gguf", torch.float32).state_dict()
    for name, values in llama.state_dict().items():
        assert torch.allclose(read[name], values, atol=0.1 if kind == "Q4_1" else 0.01), name


def test_half_a_gguf_file_is_refused(llama: PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(llama, tmp_path / "m.gguf", architecture="llama")
    (tmp_path / "half.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:300])
    with pytest.raises(ConfigurationError, match=r"half\.gguf: not a whole GGUF file"):
        load_gguf(tmp_path / "half.gguf", torch.float32)


@pytest.mark.parametrize(
    ("architecture", "without", "message"),
    [
        ("llama", "blk.1.ffn_up.weight", "has not the weights of a llama model: model.layers.1.mlp.up_proj.weight"),
        ("qwen2", "", "has not the weights of a qwen2 model: model.layers.0.self_attn.k_proj.bias"),
        ("mamba", "", "architecture 'mamba' can't be read from GGUF; these can: llama, qwen2, qwen3"),
    ],
)
def test_a_gguf_file_that_is_not_understood_is_refused(
    llama: PreTrainedModel, tmp_path: Path, architecture: str, without: str, message: str
) -> None:
    write_gguf(llama, tmp_path / "m.gguf", architecture=architecture, without=without)
    with pytest.raises(ConfigurationError, match=message):
        load_gguf(tmp_path / "m.gguf", torch.float32)
