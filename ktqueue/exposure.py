"""Nobody is let in by accident: what must hold before the API listens where others can reach it."""

from __future__ import annotations

import os
import sys

from ktqueue.errors import ConfigurationError, KtqueueError, StoreUnavailable
from ktqueue.registry.sql import SqlRegistry
from ktqueue.settings import PREFIX, Settings


def check(settings: Settings) -> None:
    """Raises ConfigurationError where keys are asked for and there is none: the service would answer nobody."""
    if not settings.keys_are_a_must:
        return
    registry = SqlRegistry(settings.sql_url)
    try:
        there_are_keys = registry.any_key()
    except StoreUnavailable:
        # Keys are asked for either way, so nobody gets in.
        return
    finally:
        registry.close()
    if not there_are_keys:
        raise ConfigurationError(
            f"{PREFIX}REQUIRE_KEYS: keys are asked for on {settings.host}, and there is none yet: make the first with "
            f"`ktqueue keys create --admin`, or set it to false if only trusted clients can reach the service"
        )


def main() -> None:
    """``python -m ktqueue.exposure``: check the settings in the environment."""
    try:
        check(Settings.from_env(os.environ))
    except KtqueueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
