"""From a request to the tokens that a model continues."""

from __future__ import annotations

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from worker.engines.base import Request
from worker.engines.trouble import Refused, too_long


class PromptReader:
    """Reads ``prompt`` as it is, and ``messages`` through the model's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self._tokenizer = tokenizer
        self.context = context

    def limit(self, tokens: int) -> None:
        """There is no room for a longer prompt and its answer than this."""
        self.context = min(self.context, tokens)

    def read(self, request: Request) -> list[int]:
        """The prompt's tokens, special ones included, at least one. Raises Refused.

        A prompt has to leave room for one token of the answer.
        """
        if "messages" in request.input:
            text, special = self._chat(request.input["messages"]), False
        else:
            text, special = request.input["prompt"], True
        tokens: list[int] = self._tokenizer(text, add_special_tokens=special, truncation=False, verbose=False).input_ids
        if not text or not tokens:
            raise Refused("the prompt is empty")
        if len(tokens) >= self.context:
            raise too_long("the prompt", len(tokens), self.context - 1)
        return tokens

    def room(self, tokens: int) -> int:
        """How many tokens of answer fit after a prompt of ``tokens``."""
        return self.context - tokens

    def _chat(self, messages: list[dict[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise Refused("this model has no chat template, so it takes input.prompt and not input.messages")
        try:
            return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        except TemplateError as error:
            raise Refused(f"the model's chat template refuses these messages: {error}") from error
        except Exception as error:  # templates are programs of others, and may fail in any way
            told = f"{type(error).__name__}: {error}"[:300]
            raise Refused(f"the model's chat template fails on these messages: {told}") from error
