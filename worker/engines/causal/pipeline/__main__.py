"""``python -m worker.engines.causal.pipeline FD``: one stage, told what to do over that socket."""

from __future__ import annotations

import logging
import sys

from worker.engines.registry import before_torch

if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.WARNING)
    before_torch()
    from worker.engines.causal.pipeline.process import main

    main(int(sys.argv[1]))
