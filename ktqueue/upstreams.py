"""Someone else's OpenAI-compatible servers, as models.toml names them: where they are, and what each takes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ktqueue.errors import ConfigurationError

Kind = Literal["openai", "ktransformers", "sglang", "vllm", "llama.cpp", "transformers"]


class Upstream(BaseModel):
    """One instance: a server, and how much it takes at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: Annotated[str, Field(max_length=2048)]
    """Where its API begins, as in ``http://10.0.0.7:30000/v1``."""
    model: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """What the server calls the model; left out: the alias."""
    key_env: Annotated[str, Field(max_length=255)] | None = None
    """The environment variable that holds its API key; left out: it needs none."""
    kind: Kind = "openai"
    """Whose server it is: what it knows beyond OpenAI's API, and where it tells that it is well."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 1
    """Requests it takes at once; left out: one at a time, as KTransformers 0.2.2."""
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """The same, as KTransformers was started with it; together with `cache_lens`."""
    cache_lens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of prompts and answers that it holds at once, as KTransformers was started with it."""

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
            raise ValueError("must be http://host:port/v1 or https://…")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("must have no user name, query or fragment; a key is named by key_env")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not (name.isascii() and name.isidentifier()):
            raise ValueError("must be the name of an environment variable")
        return name

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Upstream:
        if (self.max_batch_size is None) != (self.cache_lens is None):
            raise ValueError("max_batch_size and cache_lens: belong together")
        if self.max_batch_size is not None and "concurrency" in self.model_fields_set:
            raise ValueError("concurrency: follows from max_batch_size and cache_lens; leave it out")
        return self

    @property
    def jobs(self) -> int:
        """The most requests at once, however short they are."""
        return self.concurrency if self.max_batch_size is None else self.max_batch_size

    def key(self, environment: Mapping[str, str]) -> str | None:
        """Its API key. Raises ConfigurationError if the variable is not set."""
        if self.key_env is None:
            return None
        if not environment.get(self.key_env):
            raise ConfigurationError(f"{self.url}: key_env: the environment variable {self.key_env} is not set")
        return environment[self.key_env]


class Patience(BaseModel):
    """How long a model's instances are waited for, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    connect_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How long connecting to an instance may take."""
    first_token_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long an instance may say nothing: before the first token of an answer, and between two of them."""
    total_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1800.0
    """How long one attempt at a job may take, over all the instances that it is tried on."""
    rest_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """How long an instance that takes one at a time is left alone after a call was left before its end."""


def check(instances: Sequence[Upstream]) -> None:
    """Raises ValueError unless there are some, each another server."""
    if not instances:
        raise ValueError("instances: engine 'openai' needs at least one [[models.ALIAS.instances]]")
    urls = [instance.url for instance in instances]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise ValueError(f"instances: {twice} is there twice")
