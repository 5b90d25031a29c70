"""The model catalogue, models.toml: which aliases there are, what each can do, and with what it is run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, ValidationError, model_validator

from ktqueue import upstreams
from ktqueue.errors import ConfigurationError, UnknownModel, UnsupportedTask
from ktqueue.upstreams import Patience, Upstream

EngineName = Literal["echo", "encoder", "causal", "openai"]
TaskName = Literal["generate", "embed", "classify", "rerank", "echo"]
Place: TypeAlias = tuple[str, ...]
"""Where one slot computes: a device, or the devices of its pipeline's stages in order."""

TASKS_OF: Mapping[EngineName, tuple[TaskName, ...]] = {
    "echo": ("echo",),
    "encoder": ("embed", "classify", "rerank"),
    "causal": ("generate",),
    "openai": ("generate", "embed"),
}
LOCAL = frozenset(
    {
        "source",
        "dtype",
        "device",
        "slots",
        "devices",
        "threads",
        "max_batch",
        "tokens_per_step",
        "context",
        "trust_remote_code",
    }
)
"""What says how an engine computes here, so that 'openai' has none of it; ``context`` is the server's own affair."""
ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SOURCE = re.compile(
    r"package:(?P<package>\w+)(/(?P<inside>.+))?|path:(?P<path>.+)|hub:(?P<hub>[\w.-]+/[\w.-]+)(@(?P<revision>\S+))?"
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Where weights lie: ``name`` is a folder or a hub id, ``gguf`` a file in that folder if it is one of those."""

    name: str
    revision: str | None = None
    gguf: str | None = None


Stages: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")], ...], Field(min_length=1, max_length=64)
]


class ModelSpec(Patience):
    """One alias of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    alias: str = Field(exclude=True)
    engine: EngineName
    """What runs it."""
    tasks: tuple[TaskName, ...] = ()
    """What clients may ask of it, the first being the default; left out: the engine's first task."""
    source: str | None = None
    """``package:import_name/path/inside``, ``path:folder-or-file.gguf`` or ``hub:owner/name@revision``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What its weights are held and computed in."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """``auto`` is CUDA where there is one, else the CPU."""
    slots: Annotated[int, Field(ge=1, le=64)] = 1
    """How many child processes hold this model, each with its own copy."""
    devices: Annotated[tuple[Stages, ...], Field(min_length=1, max_length=64)] | None = None
    """In place of ``device`` and ``slots``: each slot's device, or a list of those a causal model is spread over."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads a slot computes with; 0 is torch's own choice, a thread a core."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most jobs a slot holds at once."""
    tokens_per_step: Annotated[int, Field(ge=16, le=1_000_000)] = 2048
    """Padded tokens an encoder runs in one step; tokens a causal model computes in one step, of prompts and answers."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory for a causal model's keys and values; left out: what is free on a GPU, a quarter of it on a CPU."""
    attention: Literal["auto", "triton", "varlen", "flash", "gathered"] = "auto"
    """What a causal model's attention is computed by; ``auto`` takes the quickest there is."""
    draft_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    """Most tokens that an answer is guessed to go on with, and that are computed too; left out: 8 on a CPU, or 0."""
    compile: bool | None = None
    """Let torch compile a causal model's layers; left out: on a GPU, where it has the compiler that it takes."""
    context: Annotated[int, Field(ge=8)] | None = None
    """Most tokens of one prompt (and its answer); left out: what the model's own configuration says."""
    trust_remote_code: bool = False
    """Let a hub repository run its own Python here."""
    faults: bool = False
    """Only for ``echo``: honour ``params.fail``; for tests."""
    instances: tuple[Upstream, ...] = ()
    """Only for ``openai``: the servers, each a [[models.ALIAS.instances]] table."""

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: Any) -> Any:
        """A document has lists, and a device by itself is a pipeline of one stage."""
        if not isinstance(data, dict):
            return data
        given = dict(data)
        if isinstance(tasks := given.get("tasks"), list):
            given["tasks"] = tuple(tasks)
        if isinstance(devices := given.get("devices"), list | tuple):
            given["devices"] = tuple(
                (each,) if isinstance(each, str) else tuple(each) if isinstance(each, list) else each
                for each in devices
            )
        if isinstance(instances := given.get("instances"), list):
            given["instances"] = tuple(instances)
        return given

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        foreign = [task for task in self.tasks if task not in TASKS_OF[self.engine]]
        if foreign:
            allowed = ", ".join(TASKS_OF[self.engine])
            raise ValueError(f"tasks: engine {self.engine!r} can't do {', '.join(foreign)}; it can do: {allowed}")
        if (self.engine in {"echo", "openai"}) != (self.source is None):
            raise ValueError("source: needed by every engine but 'echo' and 'openai', which have none")
        if self.source is not None and not SOURCE.fullmatch(self.source):
            raise ValueError(
                "source: must be package:import_name/path, path:folder-or-file.gguf or hub:owner/name@revision"
            )
        foreign_entries = self.model_fields_set & {"cache_gb", "attention", "draft_tokens", "compile"}
        if foreign_entries and self.engine != "causal":
            raise ValueError(f"{min(foreign_entries)}: only engine 'causal' has it")
        if self.engine == "causal" and self.tokens_per_step <= self.max_batch:
            raise ValueError("tokens_per_step: must be more than max_batch, or prompts would never be read")
        if self.faults and self.engine != "echo":
            raise ValueError("faults: only engine 'echo' has them")
        self._check_devices()
        self._check_instances()
        return self

    def _check_devices(self) -> None:
        if self.devices is None:
            return
        if self.model_fields_set & {"device", "slots"}:
            raise ValueError("devices: says how many slots there are and where; leave out 'device' and 'slots'")
        for place in self.devices:
            if len(place) > 1 and self.engine != "causal":
                raise ValueError("devices: only engine 'causal' spreads a model over several")
            gpus = ["cuda:0" if name == "cuda" else name for name in place if name != "cpu"]
            if len(set(gpus)) < len(gpus):
                raise ValueError("devices: a model's stages are each on a GPU of their own")
            if 0 < len(gpus) < len(place):
                raise ValueError("devices: a model's stages are all on GPUs, or all on the CPU")
            if len(place) > 1 and self.draft_tokens:
                raise ValueError(
                    "draft_tokens: the stages of a model work ahead, when what to guess from is not known yet"
                )
            if len(place) > 1 and self.trust_remote_code:
                raise ValueError("devices: a model with code of its own can't be spread over several")

    def _check_instances(self) -> None:
        if self.engine == "openai":
            if local := self.model_fields_set & LOCAL:
                raise ValueError(f"{min(local)}: engine 'openai' computes nothing here, so it has none")
            upstreams.check(self.instances)
        elif remote := self.model_fields_set & {"instances", *Patience.model_fields}:
            raise ValueError(f"{min(remote)}: only engine 'openai' has it")

    @property
    def most_jobs(self) -> int:
        """The most jobs that run together in one slot."""
        return sum(each.jobs for each in self.instances) if self.engine == "openai" else self.max_batch

    @property
    def offers(self) -> tuple[TaskName, ...]:
        """The tasks clients may ask for, the default first."""
        return self.tasks or TASKS_OF[self.engine][:1]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where each of its slots computes."""
        return self.devices or ((self.device,),) * self.slots

    def task(self, asked: str | None) -> TaskName:
        """The task that was asked for, or the default. Raises UnsupportedTask."""
        if asked is None:
            return self.offers[0]
        for offered in self.offers:
            if offered == asked:
                return offered
        raise UnsupportedTask(f"{self.alias!r} can't do {asked!r}; it can do: {', '.join(self.offers)}", field="task")

    def weights(self) -> Weights:
        """Where the weights are. Raises ConfigurationError if a package or a path is not there."""
        match = SOURCE.fullmatch(self.source or "")
        if match is None:
            raise ConfigurationError(f"model {self.alias!r} has no weights")
        if match["hub"]:
            return Weights(match["hub"], revision=match["revision"])
        path = Path(match["path"]).expanduser() if match["path"] else self._inside_package(match)
        if not path.exists():
            raise ConfigurationError(f"model {self.alias!r}: {path} does not exist")
        if path.is_file():
            if path.suffix != ".gguf":
                raise ConfigurationError(f"model {self.alias!r}: {path} is neither a folder nor a .gguf file")
            return Weights(str(path.parent), gguf=path.name)
        return Weights(str(path))

    def _inside_package(self, match: re.Match[str]) -> Path:
        found = find_spec(match["package"])
        if found is None or not found.submodule_search_locations:
            raise ConfigurationError(f"model {self.alias!r}: the package {match['package']!r} is not installed")
        return Path(found.submodule_search_locations[0]) / (match["inside"] or "")


class Catalogue(Mapping[str, ModelSpec]):
    """The models there are, by alias; an unknown alias raises UnknownModel with the names there are."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = dict(specs)

    def __getitem__(self, alias: str) -> ModelSpec:
        try:
            return self._specs[alias]
        except KeyError:
            raise UnknownModel(alias, sorted(self._specs)) from None

    def __contains__(self, alias: object) -> bool:
        return alias in self._specs

    def __iter__(self) -> Any:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def load_catalogue(path: Path) -> Catalogue:
    """Read models.toml. Raises ConfigurationError naming the file, the alias and the entry that is wrong."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from error
    tables = document.pop("models", {})
    if document:
        raise ConfigurationError(f"{path}: unknown entry {next(iter(document))!r}; only [models.ALIAS] is known")
    if not isinstance(tables, dict) or not tables:
        raise ConfigurationError(f"{path}: no model is declared; write a [models.ALIAS] table")
    return Catalogue({alias: _spec(path, alias, table) for alias, table in tables.items()})


def _spec(path: Path, alias: str, table: object) -> ModelSpec:
    where = f"{path}: [models.{alias}]"
    if not ALIAS.fullmatch(alias):
        raise ConfigurationError(f"{where}: an alias is 1-63 of a-z, 0-9, '.', '_', '-', and starts with one of a-z0-9")
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where}: must be a table")
    if "alias" in table:
        raise ConfigurationError(f"{where}: alias: is the table's own name, not an entry")
    try:
        return ModelSpec.model_validate({**table, "alias": alias})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{where}: {entry + ': ' if entry else ''}{message}") from error
