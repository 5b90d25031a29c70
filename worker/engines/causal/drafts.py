"""What a text may go on with, guessed from the text itself: as it went on where its last tokens came before. Pure.

A step that computes several tokens of a sequence takes hardly longer than one that computes a single one, as long as it
waits for weights. So tokens that were guessed are computed along, each drawn as if those before it were right, and kept
up to the first that was guessed wrong (Y. Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", 2023; the guess is A. Saxena's "Prompt Lookup Decoding", 2023). A token that is kept is the very one that
would have been drawn without a guess.
"""

from __future__ import annotations

from collections.abc import Sequence


class Drafts:
    """Those of one sequence. As long as they come true they grow, up to ``most`` tokens; a wrong one ends them.

    What a text would go on with is guessed even while nobody computes it: it is told again once it comes true.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._after: dict[tuple[int, int], int] = {}
        """Where the token after the last such pair is."""
        self._learnt = 1
        self._trusted = 0
        self._guess: list[int] = []
        self._guessed_at = 0

    def next(self, tokens: Sequence[int]) -> list[int]:
        """A guess of what follows ``tokens``, which are those of the last time and what was drawn since; often none."""
        came = tokens[self._guessed_at :]
        right = bool(self._guess) and list(came) == self._guess[: len(came)]
        self._trusted = min(2 * self._trusted + 1, self._most) if right else 0
        self._guess = self._guessed(tokens)
        self._guessed_at = len(tokens)
        return self._guess[: self._trusted]

    def _guessed(self, tokens: Sequence[int]) -> list[int]:
        """One token more than is ever told, for after a draft that came true another one is drawn."""
        for place in range(self._learnt, len(tokens) - 1):
            self._after[tokens[place - 1], tokens[place]] = place + 1
        self._learnt = max(self._learnt, len(tokens) - 1)
        start = self._after.get((tokens[-2], tokens[-1])) if len(tokens) > 1 else None
        if start is None:
            return []
        # What comes after the last token is what was guessed to come there: a text that goes round goes on so.
        period = len(tokens) - start
        return [tokens[start + step % period] for step in range(self._most + 1)]
