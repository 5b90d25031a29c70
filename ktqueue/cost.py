"""What a job may cost, before anybody has counted its tokens. Pure."""

from __future__ import annotations

from ktqueue.job import JsonObject, Task

BYTES_PER_TOKEN = 4
"""Of English text in JSON; what it really was is known once the job has ended."""
DEFAULT_ANSWER_TOKENS = 256
"""What an engine generates at most where nothing is asked."""


def estimated_cost(task: Task, params: JsonObject, size: int) -> int:
    """Tokens that a job may take, at least 1: those of its ``size`` bytes, and for text the most it may answer."""
    prompt = -(-size // BYTES_PER_TOKEN)
    if task is not Task.GENERATE:
        return max(1, prompt)
    answer: int = params.get("max_tokens", DEFAULT_ANSWER_TOKENS) * params.get("n", 1)
    return max(1, prompt + answer)
