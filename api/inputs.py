"""What clients send to have a job done. Engines receive `input` and `params` with only what the client gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Required

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from api.shapes import Shape, exactly_one
from ktqueue.chances import MOST_CHANCES, too_many_chances
from ktqueue.models import TaskName
from ktqueue.times import unix_ms
from ktqueue.webhook import SUBSCRIBABLE, EventType, events_named
from ktqueue.webhook_addresses import LONGEST_URL

STRICT = ConfigDict(strict=True, extra="forbid")
MOST_TEXTS = 2048
MOST_STOPS = 4
LONGEST_STOP = 100
MOST_STOP_TOKENS = 64
MOST_BIASES = 300
LARGEST_BIAS = 100
MOST_TOKENS = 32_768
MOST_TOP = 20
MOST_METADATA = 16
LONGEST_DEADLINE_S = 30 * 86_400
LONGEST_DESCRIPTION = 512

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
JsonObject = dict[str, Any]


def _one_of(*names: str) -> ConfigDict:
    """The rule of `exactly_one`, as JSON Schema says it."""
    return ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"oneOf": [{"required": [name]} for name in names]}
    )


def _stop(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    good = isinstance(texts, list) and 1 <= len(texts) <= MOST_STOPS
    if not (good and all(isinstance(text, str) and 1 <= len(text) <= LONGEST_STOP for text in texts)):
        raise PydanticCustomError("stop", "must be a string of 1-100 characters, or an array of 1-4 of them")
    return value


_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
Stop = Annotated[
    Any,
    PlainValidator(_stop),
    WithJsonSchema(
        {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "minItems": 1, "maxItems": MOST_STOPS}]}
    ),
]

_DIGITS = r"(0|[1-9][0-9]{0,8})"


def _biases(value: Any) -> Any:
    good = isinstance(value, dict) and len(value) <= MOST_BIASES
    if not (good and all(_is_bias(*pair) for pair in value.items())):
        raise PydanticCustomError(
            "logit_bias", 'must be a JSON object of up to 300 token ids, like "42", with numbers from -100 to 100'
        )
    return value


def _is_bias(token: str, bias: Any) -> bool:
    is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
    return is_number and abs(bias) <= LARGEST_BIAS and re.fullmatch(_DIGITS, token) is not None


Biases = Annotated[
    Any,
    PlainValidator(_biases),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^{_DIGITS}$"},
            "additionalProperties": {"type": "number", "minimum": -LARGEST_BIAS, "maximum": LARGEST_BIAS},
            "maxProperties": MOST_BIASES,
        }
    ),
]
StopTokens = Annotated[
    list[Annotated[int, Field(ge=0, le=10**9 - 1)]],
    Field(min_length=1, max_length=MOST_STOP_TOKENS, description="Token ids that end the text, besides the model's."),
]


@with_config(STRICT)
class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


@with_config(_one_of("prompt", "messages"))
class GenerateInput(TypedDict, total=False):
    """A prompt to continue, or a conversation to answer: exactly one of the two."""

    prompt: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]


_TOP = (
    "Tell so many of the likeliest too, at each token. "
    f"Where chances are told, n * max_tokens * (1 + top_logprobs) is at most {MOST_CHANCES:,}."
)


@with_config(STRICT)
class GenerateParams(TypedDict, total=False):
    """How the text is made. Left out, decoding is greedy."""

    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS, description="Most tokens to generate; 256 if left out.")]
    min_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS, description="Nothing ends the text before so many tokens.")]
    temperature: Annotated[float, Field(ge=0, le=2, description="0, the default, always takes the likeliest token.")]
    top_p: Annotated[float, Field(gt=0, le=1, description="Sample from the likeliest tokens that make up this much.")]
    top_k: Annotated[int, Field(ge=0, le=1_000_000, description="Sample from so many tokens; 0 is no limit.")]
    min_p: Annotated[float, Field(ge=0, le=1, description="Sample from tokens this likely, compared to the likeliest.")]
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="The same seed samples the same text.")]
    stop: Stop
    stop_token_ids: StopTokens
    ignore_eos: Annotated[bool, Field(description="Go on after the model's own end tokens; false if left out.")]
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, description="Above 1 discourages repetition.")]
    presence_penalty: Annotated[float, Field(ge=-2, le=2, description="Off the logits of tokens the text has.")]
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, description="The same, for each time it has them.")]
    logit_bias: Annotated[Biases, Field(description="Added to the logits of these tokens.")]
    logprobs: Annotated[bool, Field(description="Tell each token and the logarithm of its chance; false if left out.")]
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP, description=_TOP)]
    n: Annotated[int, Field(ge=1, le=16, description="How many texts to make; 1 if left out.")]


def _few_chances(params: JsonObject) -> JsonObject:
    why = too_many_chances(params)
    if why is not None:
        raise PydanticCustomError("chances", "{why}", {"why": why})
    return params


@with_config(_one_of("text", "texts"))
class TextsInput(TypedDict, total=False):
    """One text or many: exactly one of the two fields."""

    text: Text
    texts: Texts


@with_config(STRICT)
class EmbedParams(TypedDict, total=False):
    """How the embeddings are made."""

    normalize: Annotated[bool, Field(description="Scale to length 1; true if left out.")]
    dimensions: Annotated[int, Field(ge=1, le=65_536, description="Keep only the first so many numbers.")]


@with_config(STRICT)
class ClassifyParams(TypedDict, total=False):
    """How the labels are told."""

    top_k: Annotated[int, Field(ge=1, le=100_000, description="Only so many labels a text, best first.")]


@with_config(STRICT)
class RerankInput(TypedDict):
    """Documents to put in order of how well they answer the query."""

    query: Text
    documents: Texts


@with_config(STRICT)
class RerankParams(TypedDict, total=False):
    """How the order is told."""

    top_n: Annotated[int, Field(ge=1, le=MOST_TEXTS, description="Only so many documents, best first.")]


@with_config(STRICT)
class EchoParams(TypedDict, total=False):
    """For tests: how long to take, and how to fail where models.toml allows it."""

    delay_ms: Annotated[int, Field(ge=0, le=600_000)]
    fail: Literal["permanent", "retryable", "crash", "raise", "memory", "hang"]


def _instant(value: object) -> int:
    try:
        return unix_ms(value)
    except ValueError as error:
        raise PydanticCustomError("time", "{why}", {"why": str(error)}) from error


def _few(metadata: Any) -> Any:
    # Here, and not only by max_length: that counts after it has looked at every entry.
    if isinstance(metadata, dict) and len(metadata) > MOST_METADATA:
        raise PydanticCustomError("too_long", "must have at most {most} entries", {"most": MOST_METADATA})
    return metadata


def _events(value: object) -> EventType:
    if not (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        raise PydanticCustomError("events", "must be an array of one or more of: {known}", {"known": _EVENTS})
    for name in value:
        if name not in SUBSCRIBABLE:
            told = {"unknown": repr(name[:64]), "known": _EVENTS}
            raise PydanticCustomError("events", "must not hold {unknown}; there are: {known}", told)
    return events_named(value)


_EVENTS = ", ".join(SUBSCRIBABLE)
Events = Annotated[
    EventType,
    PlainValidator(_events),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "enum": list(SUBSCRIBABLE)},
            "minItems": 1,
        }
    ),
]
THE_ENDS = "What to be told of; left out: how a job ends, in whichever way."
Instant = Annotated[int, PlainValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Url = Annotated[
    str,
    Field(
        max_length=LONGEST_URL,
        description="http or https, of a public host and a port that is allowed; without user name and fragment.",
        json_schema_extra={"format": "uri"},
    ),
]
OfModel = Annotated[str | None, Field(max_length=63, description="Tell only of this model's jobs; null: of all.")]
Description = Annotated[str, Field(max_length=LONGEST_DESCRIPTION, description="Yours.")]


@with_config(STRICT)
class WebhookRequest(TypedDict, total=False):
    """Where this job's events shall be sent, besides registered endpoints."""

    url: Required[Url]
    events: Annotated[Events, Field(description=THE_ENDS)]


@with_config(STRICT)
class EndpointRequest(TypedDict, total=False):
    """An endpoint for webhooks: it is told what happens to jobs from now on."""

    url: Required[Url]
    events: Annotated[Events, Field(description=THE_ENDS)]
    model: OfModel
    description: Description


@with_config(STRICT)
class EndpointChanges(TypedDict, total=False):
    """What is to be different about an endpoint; leave out what is to stay."""

    url: Url
    events: Events
    model: OfModel
    description: Description
    enabled: Annotated[bool, Field(description="False: tell it nothing, and give up what is pending for it.")]


@with_config(STRICT)
class ReplayRequest(TypedDict):
    """From when on to send again what an endpoint missed."""

    since: Annotated[Instant, Field(description="Only events that happened then or later.")]


@with_config(STRICT)
class JobRequest(TypedDict, total=False):
    """A job to be done. What `input` and `params` hold depends on the task; leave out what you do not set."""

    model: Required[Annotated[str, Field(min_length=1, max_length=63, description="An alias of /api/v1/models.")]]
    task: Annotated[str, Field(max_length=32, description="Left out: the first of the model's tasks.")]
    input: Required[Any]
    params: Any
    priority: Annotated[int, Field(ge=0, le=9, description="9 runs first; 5 if left out.")]
    max_attempts: Annotated[int, Field(ge=1, le=10, description="3 if left out.")]
    metadata: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=64)],
            Annotated[str, Field(max_length=512)],
        ],
        BeforeValidator(_few),
        Field(max_length=MOST_METADATA, description="Yours to label jobs with, and to list them by."),
    ]
    deadline_seconds: Annotated[
        float, Field(gt=0, le=LONGEST_DEADLINE_S, description="Expire unless it has ended in this time; up to 30 days.")
    ]
    reject_if_late: Annotated[
        bool, Field(description="Answer 429 if by what waits before it the job would miss its deadline.")
    ]
    run_at: Annotated[Instant, Field(description="Not before this; at most a year ahead.")]
    webhook: Annotated[WebhookRequest, BeforeValidator(_few)]


@dataclass(frozen=True, slots=True)
class TaskShapes:
    """The rules for one task."""

    input: Shape[Any]
    params: Shape[Any]


TASKS: Mapping[TaskName, TaskShapes] = {
    "generate": TaskShapes(
        Shape(GenerateInput, at="input", check=exactly_one("prompt", "messages")),
        Shape(GenerateParams, at="params", check=_few_chances),
    ),
    "embed": TaskShapes(
        Shape(TextsInput, at="input", check=exactly_one("text", "texts")), Shape(EmbedParams, at="params")
    ),
    "classify": TaskShapes(
        Shape(TextsInput, at="input", check=exactly_one("text", "texts")), Shape(ClassifyParams, at="params")
    ),
    "rerank": TaskShapes(Shape(RerankInput, at="input"), Shape(RerankParams, at="params")),
    "echo": TaskShapes(Shape(JsonObject, at="input"), Shape(EchoParams, at="params")),
}
