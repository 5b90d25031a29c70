"""``python -m worker.engines.causal.pipeline FD``: one stage, told what to do over that socket."""

from __future__ import annotations

import logging
import sys

from worker.engines.causal.pipeline.process import main

if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.WARNING)
    main(int(sys.argv[1]))
