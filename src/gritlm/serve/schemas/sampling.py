"""Sampling parameters as fields of requests, under the names of OpenAI's API and of vLLM."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from gritlm.printable import excerpt
from gritlm.serve.config import MAX_STOPS
from gritlm.serve.schemas.base import RequestModel, refused

LONGEST_STOP = 256  # characters
MOST_BIASES = 1024  # token ids of a logit_bias
MOST_DRAFTED = 64
MOST_STOP_IDS = 256
SEEDS = 2**63
_DIGITS = 10  # of a token id


def _few_stops(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_STOPS:
        raise refused("too_many", f"{len(value)} stop strings; expected at most {MAX_STOPS}")
    return value


def _stops(value: str | list[str] | None) -> str | list[str] | None:
    many = [value] if isinstance(value, str) else value or []
    for stop in many:
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise refused(
                "length", f"a stop string has {len(stop)} characters; expected 1 to {LONGEST_STOP}"
            )
    return value


def _token_ids_as_keys(value: Any) -> Any:
    """Refuse keys that are no token ids, before their values are validated."""
    if not isinstance(value, dict):
        return value
    if len(value) > MOST_BIASES:
        raise refused("too_many", f"{len(value):,} token ids; expected at most {MOST_BIASES:,}")
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) <= _DIGITS):
            raise refused(
                "wrong_type", f"the key '{excerpt(key, 40)}' is no token id; expected digits"
            )
    return value


_StopText = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": LONGEST_STOP})]
_StopTexts = Annotated[list[_StopText], Field(json_schema_extra={"maxItems": MAX_STOPS})]
Stop = Annotated[_StopText | _StopTexts | None, BeforeValidator(_few_stops), AfterValidator(_stops)]

Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-SEEDS, lt=SEEDS)]
TopK = Annotated[
    int,
    Field(
        ge=-1,
        le=2**31 - 1,
        description="Sample from the top_k likeliest tokens; 0 or -1 for all tokens.",
    ),
]
_MinP = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Sample from tokens with at least this part of the probability of the "
        "likeliest one.",
    ),
]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Repetition = Annotated[
    float,
    Field(
        ge=0.01,
        le=100,
        description="Divides the positive logits of tokens in prompt or output, and multiplies "
        "the negative ones; in an answer from documents, those of the output.",
    ),
]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_LogitBias = Annotated[
    dict[str, _Bias],
    BeforeValidator(_token_ids_as_keys),
    Field(
        description="Numbers added to the logits of tokens, by token id of this model.",
        json_schema_extra={
            "maxProperties": MOST_BIASES,
            "propertyNames": {"pattern": f"^[0-9]{{1,{_DIGITS}}}$"},
        },
    ),
]
_StopIds = Annotated[
    list[TokenId],
    Field(
        fail_fast=True,
        max_length=MOST_STOP_IDS,
        description="Token ids that end the output and are not part of it.",
    ),
]


class SamplingFields(RequestModel):
    """Settings of the generated text, except for ``top_k``: an answer from documents has another
    one, the number of passages."""

    temperature: Temperature | None = Field(None, description="Default 1, as in OpenAI's API.")
    top_p: TopP | None = None
    min_p: _MinP | None = None
    seed: Seed | None = None
    stop: Stop = None
    stop_token_ids: _StopIds | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: _Repetition | None = None
    logit_bias: _LogitBias | None = None
    ignore_eos: bool | None = Field(
        None, description="Whether the model's own end tokens do not end the output."
    )
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Tokens before which the output does not end."
    )
    prompt_lookup_num_tokens: Annotated[int, Field(ge=0, le=MOST_DRAFTED)] | None = Field(
        None,
        description="Most tokens of a draft from earlier text, which makes "
        "quotations faster; default 10, 0 for none. The output is the same but for rounding.",
    )
