"""Settings: frozen, read from the environment once by an entry point, and passed on from there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ktqueue.errors import ConfigurationError
from ktqueue.roster import WORKER_NAME
from ktqueue.webhook_addresses import AddressRules

PREFIX = "KTQ_"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
API_KEY = f"{PREFIX}API_KEY"
"""A client's, and no setting of the service."""
SECRET = frozenset({"secret_key"})
"""Settings that no message may repeat."""
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
KEYS = re.compile(r"\s*[A-Za-z0-9+/]{43}=\s*(,\s*[A-Za-z0-9+/]{43}=\s*)*")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Settings(BaseModel):
    """Each field is read from ``KTQ_<NAME>``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    home: Path = Field(
        default=Path("~/.ktqueue"),
        description="Folder for the embedded database, the embedded Redis's files and its socket.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on; and that of KTQ_METRICS_PORT.")
    require_keys: Annotated[str, Field(pattern="^(auto|true|false)$")] = Field(
        default="auto",
        description="Whether the API asks for keys. `auto`: wherever others can reach it, on loopback once there is a "
        "key. `false`: whoever reaches it may do everything, so only trusted clients must.",
    )
    hosts: str = Field(
        default="",
        description="Further names by which the API may be asked without a key, comma separated. By addresses, names "
        "without a dot and those of private networks (`.internal`, `.local`, …) it always may.",
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(default=8000, description="Port the API listens on.")
    database_url: str = Field(
        default="",
        description="`sqlite:///…` or `postgresql://user:password@host/name`. Empty: SQLite in the home folder.",
    )
    redis_url: str = Field(
        default="",
        description="`redis://`, `rediss://` or `unix://`. Empty: `ktqueue up` starts a server of its own.",
    )
    worker_name: str = Field(
        default="",
        description="Under which name operators move models to and from the workers here. Empty: the host's name.",
    )
    models: Path = Field(
        default=Path(__file__).resolve().parent.parent / "models.toml", description="The model catalogue."
    )
    api_workers: Count = Field(default=2, description="Processes that serve HTTP.")
    api_threads: Count = Field(default=32, description="Requests each of those serves at once.")
    max_waits: Annotated[int, Field(ge=0, le=1_000_000_000)] = Field(
        default=16,
        description="How many of those threads may be held by long polls and event streams; "
        "beyond that a wait is answered at once.",
    )
    max_body_bytes: Count = Field(default=2_000_000, description="Largest body of one job.")
    max_bulk_bytes: Count = Field(default=100_000_000, description="Largest body of a bulk submit.")
    max_bulk_lines: Count = Field(default=50_000, description="Most jobs in a bulk submit.")
    max_queued: Count = Field(
        default=1_000_000,
        description="Most jobs waiting in one lane, those scheduled for later included; beyond it, 429.",
    )
    max_queued_all: Count = Field(default=2_000_000, description="Most jobs waiting in all lanes together.")
    max_queued_bytes: Annotated[int, Field(ge=1, le=1_000_000_000_000_000)] = Field(
        default=10_000_000_000, description="Most bytes of input, params and metadata of all jobs that wait."
    )
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        default=30, description="How long a job is kept after it has ended, with its result, attempts and key."
    )
    lease_seconds: Seconds = Field(
        default=8.0, description="How long a claim is believed without a sign of life from its worker."
    )
    heartbeat_seconds: Seconds = Field(default=2.0, description="How often a worker renews its leases.")
    step_seconds: Seconds = Field(
        default=60.0, description="How long one step of an engine may take; its process is then killed and replaced."
    )
    sweep_seconds: Seconds = Field(default=1.0, description="How often the sweep repairs what a death left undone.")
    grace_seconds: Seconds = Field(
        default=30.0,
        description="How long a worker told to stop may take to finish what it has; 5.0 under `ktqueue up`.",
    )
    secret_key: str = Field(
        default="",
        repr=False,
        description="Keys separated by commas, each base64 of 32 bytes: the first seals the secrets of webhooks, all "
        "open them and sign. Empty: the file `secret.key` in the home folder, made if it is not there.",
    )
    webhook_allow: str = Field(
        default="",
        description="Host names, addresses and networks, comma separated, where webhooks may go though they are not "
        "public and on any port; `:port` after one allows only that port.",
    )
    webhook_ports: str = Field(
        default="80,443,8080,8443",
        description="Ports that webhooks may go to, comma separated. Empty: only to what KTQ_WEBHOOK_ALLOW names.",
    )
    webhook_timeout_seconds: Seconds = Field(default=15.0, description="How long a webhook's request may take in all.")
    webhook_concurrency: Count = Field(default=16, description="Requests at once to one receiver of webhooks.")
    webhook_in_flight: Count = Field(default=256, description="Requests at once to all receivers of webhooks together.")
    webhook_disable_days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        default=5, description="An endpoint that has failed for so long without a success is disabled."
    )
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=0,
        description="Port on which `ktqueue worker`, `light` and `deliver` serve their own /metrics, without keys; 0: "
        "none. `ktqueue up` needs none, for its API tells of all its processes.",
    )
    failpoints: str = Field(
        default="", description="A folder in which tests name the places where a process shall be killed."
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        default="info", description="debug, info, warning or error."
    )

    @field_validator("home", "models")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:
            raise PydanticCustomError("no_home", "begins with ~, and nobody knows whose home that is") from error

    @field_validator("hosts")
    @classmethod
    def _names(cls, value: str) -> str:
        for name in filter(None, map(str.strip, value.split(","))):
            if not NAME.fullmatch(name):
                said = "{name} is no host name, which has no scheme and no port"
                raise PydanticCustomError("no_name", said, {"name": name})
        return value

    @field_validator("heartbeat_seconds")
    @classmethod
    def _in_time(cls, value: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease_seconds")
        if lease is not None and value >= lease:
            raise PydanticCustomError(
                "too_late", "must be below KTQ_LEASE_SECONDS, {lease}, or every lease runs out", {"lease": lease}
            )
        return value

    @field_validator("max_waits")
    @classmethod
    def _threads_left(cls, value: int, info: ValidationInfo) -> int:
        threads = info.data.get("api_threads")
        if threads is not None and value >= threads:
            raise PydanticCustomError(
                "no_threads_left",
                "must be below KTQ_API_THREADS, {threads}, or waiting requests starve the others",
                {"threads": threads},
            )
        return value

    @field_validator("secret_key")
    @classmethod
    def _keys(cls, value: str) -> str:
        if value and not KEYS.fullmatch(value):
            raise PydanticCustomError(
                "keys",
                "must be keys separated by commas, each base64 of 32 bytes, as `openssl rand -base64 32` makes one",
            )
        return value

    @field_validator("worker_name")
    @classmethod
    def _fit_for_a_url(cls, value: str) -> str:
        if value and not WORKER_NAME.fullmatch(value):
            raise PydanticCustomError(
                "name", "must be of letters, digits, '.', '_' and '-', and begin with a letter or digit"
            )
        return value

    @field_validator("webhook_allow")
    @classmethod
    def _names_and_networks(cls, value: str) -> str:
        with _as_wrong_value():
            AddressRules(value, "")
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _ports(cls, value: str) -> str:
        with _as_wrong_value():
            AddressRules("", value)
        return value

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``KTQ_*``. Raises ConfigurationError naming the variable; an unknown one is an error too."""
        ours = {key: value for key, value in environ.items() if key.startswith(PREFIX) and key != API_KEY}
        given = {key[len(PREFIX) :].lower(): value for key, value in ours.items()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = PREFIX + str(first["loc"][0]).upper()
            if first["type"] == "extra_forbidden":
                known = ", ".join(PREFIX + field.upper() for field in cls.model_fields)
                raise ConfigurationError(f"{name}: no such setting; there are: {known}") from error
            got = "" if first["loc"][0] in SECRET else f", got {first['input']!r}"
            raise ConfigurationError(f"{name}: {first['msg']}{got}") from error

    def as_env(self) -> dict[str, str]:
        """The inverse of `from_env`, to hand settings to a child process."""
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in type(self).model_fields}

    @property
    def keys_are_a_must(self) -> bool:
        """Whether keys are asked for even while there is none."""
        return self.require_keys == "true" or (self.require_keys == "auto" and self.host not in LOOPBACK)

    @property
    def sql_url(self) -> str:
        """The database's URL with its driver spelled out, as SQLAlchemy wants it."""
        if not self.database_url:
            return f"sqlite:///{self.home / 'ktqueue.db'}"
        scheme, rest = self.database_url.split("://", 1) if "://" in self.database_url else ("", "")
        if scheme in {"postgresql", "postgres"}:
            return f"postgresql+psycopg://{rest}"
        if scheme in {"sqlite", "postgresql+psycopg"}:
            return self.database_url
        raise ConfigurationError(f"{PREFIX}DATABASE_URL: must begin with sqlite:// or postgresql://")


@contextmanager
def _as_wrong_value() -> Iterator[None]:
    """Say of a setting what its own reader says of it."""
    try:
        yield
    except ConfigurationError as error:
        raise PydanticCustomError("unreadable", "{said}", {"said": str(error)}) from error
