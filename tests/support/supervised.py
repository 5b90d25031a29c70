"""``python -m tests.support.supervised JSON``: a supervisor of the programs that the JSON describes."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ktqueue.processes import Program, Supervisor


def program(described: dict[str, Any]) -> Program:
    """``ready``: a file that is there once the program is ready."""
    ready = described.pop("ready", None)
    return Program(**described, env=dict(os.environ), ready=lambda: ready is None or Path(ready).exists())


def asked(path: Path) -> Callable[[], Sequence[Program] | None]:
    """The programs that a file describes, whenever it is another: files are put there whole."""
    seen: list[str] = [""]

    def news() -> Sequence[Program] | None:
        text = path.read_text() if path.exists() else ""
        if text == seen[0]:
            return None
        seen[0] = text
        return [program(one) for one in json.loads(text)]

    return news


logger = logging.getLogger(__name__)


def main() -> None:
    """Run until told to stop; says 'all are ready' on stdout once they are."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    described = json.loads(sys.argv[1])
    supervisor = Supervisor(
        [program(one) for one in described["programs"]],
        grace_s=described["grace_s"],
        asked=asked(Path(described["asked"])),
    )
    run = supervisor.run(lambda: logger.info("all are ready"), start_timeout_s=described["start_timeout_s"])
    sys.exit(run)


if __name__ == "__main__":
    main()
