"""``python -m tests.support.supervised JSON``: a supervisor of the programs that the JSON describes."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from ktqueue.processes import Program, Supervisor


def program(described: dict[str, Any]) -> Program:
    """``ready``: a file that is there once the program is ready."""
    ready = described.pop("ready", None)
    return Program(**described, env=dict(os.environ), ready=lambda: ready is None or Path(ready).exists())


logger = logging.getLogger(__name__)


def main() -> None:
    """Run until told to stop; says 'all are ready' on stdout once they are."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    described = json.loads(sys.argv[1])
    supervisor = Supervisor([program(one) for one in described["programs"]], grace_s=described["grace_s"])
    run = supervisor.run(lambda: logger.info("all are ready"), start_timeout_s=described["start_timeout_s"])
    sys.exit(run)


if __name__ == "__main__":
    main()
