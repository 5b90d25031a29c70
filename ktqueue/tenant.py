"""Who a thing belongs to, and who asks for it. Values, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_TENANT = "default"
"""Whose everything is while no keys are asked for."""

TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: it sees and changes what is ``tenant``'s and nothing else."""

    tenant: str = DEFAULT_TENANT
