"""Which blocks of the cache belong to whom: tables, shared prefixes, copies on write. Pure: numbers, no tensors.

A block holds the keys and values of ``size`` tokens. A full block is known by its content, which is its own tokens and
all before them, so requests that begin alike use the same blocks (W. Kwon et al., "Efficient Memory Management for
Large Language Model Serving with PagedAttention", 2023). Contents are compared as they are, not by a hash of them: two
prompts are never taken for the same by chance.

Requests of different owners share nothing. A prompt that was read before is answered sooner, so who shares with
others learns what they asked (G. Song et al., "The Early Bird Catches the Leak", 2024).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

NOBODYS = 0
"""The block that rows which are there for padding write to."""

Content: TypeAlias = tuple[int | str, tuple[int, ...]]
"""The content before this block's, by its number, and this block's tokens. Before the first there is the owner."""

_FIRST = 1


@dataclass(slots=True)
class Table:
    """A request's ``blocks``, in order. The first ``filled`` are known by their content, the last as ``last``.

    ``owner`` is whose request it is. ``version`` grows whenever the blocks are others, or more.
    """

    owner: str = ""
    blocks: list[int] = field(default_factory=list)
    version: int = 0
    filled: int = 0
    last: int | str = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.owner


@dataclass(frozen=True, slots=True)
class Copy:
    """What is to be copied before anything is written."""

    source: int
    target: int


class Blocks:
    """``count`` blocks of ``size`` tokens, the first of which is nobody's.

    A block that nobody uses any more keeps its content until it is needed, the longest unused going first.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self.count = count - 1
        """How many there are to hand out."""
        self._numbers = itertools.count(_FIRST)
        self._free = list(range(count - 1, NOBODYS, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._users = [0] * count
        self._known: dict[Content, tuple[int, int]] = {}
        self._contents: dict[int, Content] = {}

    @property
    def available(self) -> int:
        """How many blocks could be handed out."""
        return len(self._free) + len(self._unused)

    def needed(self, tokens: int) -> int:
        """How many blocks so many tokens take."""
        return -(-tokens // self.size)

    def open(self, tokens: Sequence[int], owner: str) -> Table:
        """A table that begins with the full blocks of ``tokens`` that its owner has already; never with all of them.

        A block may be found before it is computed, in the step that will: a step writes before it reads.
        """
        table = Table(owner)
        while (table.filled + 1) * self.size < len(tokens):
            found = self._known.get(self._next_content(table, tokens))
            if found is None:
                break
            block, table.last = found
            self._use(block)
            table.blocks.append(block)
            table.filled += 1
        return table

    def reserve(self, table: Table, start: int, end: int) -> list[Copy] | None:
        """Make room to write the tokens from ``start`` to before ``end``, in blocks that are nobody else's to read.

        What has to be copied first; None, and nothing has changed, if there are not enough blocks.
        """
        first = start // self.size
        if end == start + 1 and first < len(table.blocks) and not self._is_read_by_others(table.blocks[first]):
            return []
        others = [place for place in range(first, len(table.blocks)) if self._is_read_by_others(table.blocks[place])]
        missing = self.needed(end) - len(table.blocks)
        if len(others) + max(0, missing) > self.available:
            return None
        copies = []
        for place in others:
            copy = Copy(table.blocks[place], self._take())
            self._leave(copy.source)
            table.blocks[place] = copy.target
            copies.append(copy)
        table.blocks += [self._take() for _ in range(missing)]
        if table.filled > first:
            self._know_first(table, first)
        table.version += 1
        return copies

    def fill(self, table: Table, tokens: Sequence[int], count: int) -> None:
        """The first ``count`` of ``tokens`` are in the cache once this step has written: let them be found."""
        while (table.filled + 1) * self.size <= count:
            content = self._next_content(table, tokens)
            block = table.blocks[table.filled]
            found = self._known.get(content)
            if found is None:
                number = next(self._numbers)
                self._known[content] = block, number
                self._contents[block] = content
            else:
                # Somebody else computed the same at the same time. Ours is known to nobody, and goes when we go.
                _, number = found
            table.last = number
            table.filled += 1

    def fork(self, table: Table, tokens: int) -> Table:
        """Another table over the blocks of the first so many tokens; whoever writes to one of them gets a copy."""
        fork = Table(table.owner, table.blocks[: self.needed(tokens)])
        for block in fork.blocks:
            self._use(block)
        self._know_first(fork, len(fork.blocks))
        return fork

    def close(self, table: Table) -> None:
        """Give a table's blocks back. The last go first, since the first are the likeliest to be asked for again."""
        for block in reversed(table.blocks):
            self._leave(block)
        table.blocks.clear()
        table.filled, table.last = 0, table.owner

    def discard(self, table: Table) -> None:
        """Let nobody find what this table alone holds, for it is not to be trusted."""
        for block in table.blocks:
            if self._users[block] == 1:
                self._forget(block)
        self._know_first(table, len(table.blocks))

    def forget(self) -> None:
        """Let nobody find anything that was there before."""
        for block in list(self._contents):
            self._forget(block)
        self._free += self._unused
        self._unused.clear()

    def _forget(self, block: int) -> None:
        content = self._contents.pop(block, None)
        if content is not None:
            del self._known[content]

    def _next_content(self, table: Table, tokens: Sequence[int]) -> Content:
        start = table.filled * self.size
        return table.last, tuple(tokens[start : start + self.size])

    def _know_first(self, table: Table, most: int) -> None:
        """Of a table's blocks only the first are what they are known as, at ``most`` so many."""
        table.filled, table.last = 0, table.owner
        for block in table.blocks[:most]:
            content = self._contents.get(block)
            if content is None:
                break
            table.filled, table.last = table.filled + 1, self._known[content][1]

    def _is_read_by_others(self, block: int) -> bool:
        return self._users[block] > 1 or block in self._contents

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._unused.popitem(last=False)
            self._forget(block)
        self._users[block] = 1
        return block

    def _use(self, block: int) -> None:
        self._unused.pop(block, None)
        self._users[block] += 1

    def _leave(self, block: int) -> None:
        self._users[block] -= 1
        if self._users[block]:
            return
        if block in self._contents:
            self._unused[block] = None
        else:
            self._free.append(block)
