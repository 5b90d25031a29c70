"""One request to one instance, from the first byte to the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx
import orjson

from ktqueue.job import Task
from ktqueue.upstreams import Patience, Upstream
from worker.engines.base import Request
from worker.engines.upstream.asking import body_of, path_of, texts_of
from worker.engines.upstream.kinds import DIALECTS
from worker.engines.upstream.outcome import Chunk, Ending, Outcome
from worker.engines.upstream.reading import Nonsense, chunk_of, vectors_of
from worker.engines.upstream.refusal import refusal

LONGEST_LINE = 4_000_000
MOST_BYTES = 256_000_000
"""Of one answer: 2048 embeddings of 8192 numbers."""
AFTERWARDS_S = 1.0
"""How long a server may take to close its answer once it has said that it is done."""
DONE = b"[DONE]"


class Caller:
    """Sends requests to one instance, over connections of its own. ``key`` is its API key."""

    def __init__(self, upstream: Upstream, alias: str, key: str | None, patience: Patience) -> None:
        self._upstream = upstream
        self._model = upstream.model or alias
        self._key = key
        self._patience = patience
        silence_s = patience.first_token_seconds
        self.client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx.Timeout(silence_s, connect=patience.connect_seconds),
            limits=httpx.Limits(max_connections=upstream.jobs + 1, max_keepalive_connections=upstream.jobs + 1),
            follow_redirects=False,
            event_hooks={"response": [_stay]},
            # What a server would have us repeat is of one job, and some of it could not even be sent.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # The environment's proxies and passwords are for others.
            trust_env=False,
        )

    async def __call__(self, request: Request, within_s: float, tell: Callable[[Chunk], None]) -> Outcome:
        """Ask, and ``tell`` what comes of it while it comes; ``within_s`` bounds all of it."""
        try:
            async with asyncio.timeout(within_s):
                return await self._ask(request, tell)
        except TimeoutError:
            return _broken(f"the server did not end its answer within {self._patience.total_seconds:g} s")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Outcome(Ending.GONE, f"the server can't be reached: {_named(error)}")
        except httpx.TimeoutException:
            return _broken(f"the server said nothing for {self._patience.first_token_seconds:g} s")
        except httpx.HTTPError as error:
            return _broken(f"the server broke off: {_named(error)}")
        except Nonsense as nonsense:
            return _broken(f"the server's answer is none: {nonsense}")

    async def _ask(self, request: Request, tell: Callable[[Chunk], None]) -> Outcome:
        body = body_of(request, self._model, DIALECTS[self._upstream.kind])
        url = f"{self._upstream.url}/{path_of(request)}"
        headers = {"Content-Type": "application/json"}
        async with self.client.stream("POST", url, content=orjson.dumps(body), headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                return await refusal(response, self._key)
            if request.task is Task.EMBED:
                vectors = vectors_of(await _whole(response), len(texts_of(request)))
                return Outcome(Ending.DONE, vectors=vectors)
            return await self._stream(response, request.params.get("n", 1), tell)

    async def _stream(self, response: httpx.Response, choices: int, tell: Callable[[Chunk], None]) -> Outcome:
        """Pass a stream on. It is whole once all of its choices have ended; some servers only say that they are done.

        Not so others: one that drops a request for the sake of the next may say that it is done with it, too.
        """
        tells_finish = DIALECTS[self._upstream.kind].tells_finish
        kind = response.headers.get("Content-Type", "")
        if not kind.startswith("text/event-stream"):
            raise Nonsense(f"it is {kind[:64]!r} and no stream of events")
        ended: set[int] = set()
        events = _events(response)
        async for event in events:
            if event == DONE and (len(ended) == choices or not tells_finish):
                return Outcome(Ending.DONE, over=await _closed(events))
            if event == DONE:
                break
            chunk = chunk_of(event, choices)
            ended |= {piece.choice for piece in chunk.pieces if piece.finish is not None}
            tell(chunk)
        if len(ended) < choices:
            raise Nonsense("it is only a part of one")
        return Outcome(Ending.DONE)


async def _stay(response: httpx.Response) -> None:
    """Where a redirect leads, httpx works out though nobody follows it, and raises what is no HTTPError if it can't."""
    response.headers.pop("Location", None)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """What the lines of a stream say. Each event has one line of data, as OpenAI's have. Raises Nonsense."""
    rest, size = b"", 0
    async for more in response.aiter_bytes():
        size += len(more)
        *lines, rest = (rest + more).split(b"\n")
        if len(rest) > LONGEST_LINE or size > MOST_BYTES:
            raise Nonsense("it is too long")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def _closed(events: AsyncIterator[bytes]) -> bool:
    """Whether a stream that is done ends; what it may still say is nothing to us."""
    try:
        async with asyncio.timeout(AFTERWARDS_S):
            async for _ in events:
                pass
    except (TimeoutError, httpx.HTTPError, Nonsense):
        return False
    return True


async def _whole(response: httpx.Response) -> bytes:
    parts, size = [], 0
    async for more in response.aiter_bytes():
        parts.append(more)
        size += len(more)
        if size > MOST_BYTES:
            raise Nonsense("it is too long")
    return b"".join(parts)


def _broken(said: str) -> Outcome:
    return Outcome(Ending.BROKEN, said, over=False)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200] if str(error) else type(error).__name__
