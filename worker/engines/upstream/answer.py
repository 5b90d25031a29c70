"""From what an instance says, bit by bit, to what a job is answered."""

from __future__ import annotations

import math

from ktqueue.cost import estimated_cost
from ktqueue.job import JobError, JsonObject, Usage
from worker.engines.base import Cut, Delta, Failed, Finished, Output, Request
from worker.engines.causal.sampling import Sampling, sampling_of
from worker.engines.upstream.outcome import Chunk, Piece, Vectors


class Answer:
    """All choices of one request for texts.

    Where an instance does not tell how many tokens there were, each piece that has text is taken for one, as servers
    send them, and the prompt for as many as it was estimated to have.
    """

    def __init__(self, request: Request) -> None:
        self._sampling = sampling_of(request.params)
        self._choices = [_Choice(self._sampling) for _ in range(self._sampling.n)]
        room = self._sampling.max_tokens * self._sampling.n
        self._room = room
        self._prompt_tokens = max(1, estimated_cost(request.task, request.input, request.params) - room)
        self._id = request.id
        self._usage: Usage | None = None
        self._pieces = 0
        self._told = 0

    def take(self, chunk: Chunk) -> list[Output]:
        """What is new; of no choice but those that were asked for."""
        self._usage = chunk.usage or self._usage
        return [delta for piece in chunk.pieces if (delta := self._add(piece)) is not None]

    def finish(self, largest_batch: int) -> Finished:
        """It is whole."""
        for choice in self._choices:
            choice.end()
        return Finished(self._id, self._result(), self._usage or self._counted(), largest_batch)

    def cut(self, largest_batch: int) -> Cut:
        """What there is of it; nothing before the first of its text."""
        if not self._told:
            return Cut(self._id)
        for choice in self._choices:
            choice.finish = choice.finish or "deadline"
        return Cut(self._id, self._result(), self._counted(), largest_batch)

    def _add(self, piece: Piece) -> Delta | None:
        choice = self._choices[piece.choice]
        offset = choice.length
        choice.add(piece)
        if not piece.text:
            return None
        self._pieces += 1
        self._told += len(piece.text)
        return Delta(self._id, piece.text, offset, min(1.0, self._pieces / self._room), self._told, piece.choice)

    def _counted(self) -> Usage:
        return self._usage or Usage(self._prompt_tokens, self._pieces)

    def _result(self) -> JsonObject:
        results = [choice.result() for choice in self._choices]
        return results[0] if len(results) == 1 else {"choices": results}


class _Choice:
    """One text on its way."""

    def __init__(self, sampling: Sampling) -> None:
        self.length = 0
        self.finish: str | None = None
        self._sampling = sampling
        self._pieces: list[str] = []
        self._chances: list[dict[str, object]] = []

    def add(self, piece: Piece) -> None:
        if piece.text:
            self._pieces.append(piece.text)
            self.length += len(piece.text)
        self._chances += piece.chances
        self.finish = piece.finish or self.finish

    def end(self) -> None:
        """Where the instance does not tell why it ended, that follows from how long it is."""
        if self.finish is None:
            self.finish = "length" if len(self._pieces) >= self._sampling.max_tokens else "stop"

    def result(self) -> JsonObject:
        result: JsonObject = {"text": "".join(self._pieces), "finish_reason": self.finish}
        if self._sampling.logprobs:
            result["logprobs"] = self._chances
        return result


def embeddings(request: Request, vectors: Vectors, largest_batch: int) -> Finished | Failed:
    """The answer to a request for vectors, as an encoder here would give it."""
    most = request.params.get("dimensions")
    if most is not None and most > len(vectors.rows[0]):
        said = f"params.dimensions is {most}; the model's embeddings have {len(vectors.rows[0])}"
        return Failed(request.id, JobError("invalid_request", said))
    rows = [row[:most] for row in vectors.rows]
    if request.params.get("normalize", True):
        rows = [_unit(row) for row in rows]
    usage = vectors.usage or Usage(estimated_cost(request.task, request.input, request.params), 0)
    return Finished(request.id, {"embeddings": rows}, usage, largest_batch)


def _unit(row: list[float]) -> list[float]:
    length = math.hypot(*row)
    return [number / length for number in row] if length else row
