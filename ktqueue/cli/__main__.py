"""``python -m ktqueue.cli`` is the command ``ktqueue``."""

from __future__ import annotations

from ktqueue.cli import main

if __name__ == "__main__":
    main(prog_name="ktqueue")
