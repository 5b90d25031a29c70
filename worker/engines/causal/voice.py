"""How a model's tokens become text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from worker.engines.causal.detokenize import LONGEST, Detokenizer


@dataclass(frozen=True, slots=True)
class Voice:
    """How a model's tokens become text, and which of them end an answer.

    ``pieces`` begins a text; ``spell`` tells what a single token looks like.
    """

    pieces: Callable[[], Detokenizer]
    spell: Callable[[int], str]
    end_tokens: frozenset[int]


def voice_of(tokenizer: PreTrainedTokenizerBase, end_tokens: frozenset[int]) -> Voice:
    """The voice of a tokenizer."""
    return Voice(detokenizers(tokenizer), spelling(tokenizer), end_tokens)


def detokenizers(tokenizer: PreTrainedTokenizerBase) -> Callable[[], Detokenizer]:
    """Makes detokenizers, one for each text: the fast ones for tokenizers that decode in the library's way alone."""
    if type(tokenizer)._decode is PreTrainedTokenizerFast._decode:  # noqa: SLF001 - it is what a tokenizer overrides
        backend = tokenizer.backend_tokenizer
        return lambda: FastDetokenizer(backend)

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return lambda: Detokenizer(decode)


def spelling(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Tells the text of single tokens, special ones too; a piece of a character is U+FFFD."""

    def decode(*tokens: int) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @lru_cache(maxsize=65_536)
    def spell(token: int) -> str:
        # After itself, for alone a token loses the blank before it in some vocabularies.
        return decode(token, token)[len(decode(token)) :]

    return spell


class FastDetokenizer(Detokenizer):
    """Tells the same, by the tokenizers library's own stream: no Python for a token but to remember it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))
        self._tokenizer = tokenizer
        self._stream: DecodeStream | None = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is not whole."""
        if self._stream is None or self._waiting == LONGEST - 1:
            self._stream = None
            return super().push(token)
        try:
            piece = self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001 - the library raises nothing more exact
            # A token that changes the text before it, as some decoders let a broken character do, ends the stream.
            self._stream = None
            return super().push(token)
        self._tokens.append(token)
        if piece is None:
            return ""
        self._tell()
        return str(piece)
