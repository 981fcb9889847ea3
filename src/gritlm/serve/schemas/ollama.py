"""Models of Ollama's API: chats, generated texts, embeddings and the list of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gritlm.serve.config import MAX_INPUTS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.chat_completions import MAX_MESSAGES
from gritlm.serve.schemas.common import Off, only
from gritlm.serve.schemas.content_parts import MAX_PARTS
from gritlm.serve.schemas.passages import RagResult
from gritlm.serve.schemas.rag_options import AnswerFields
from gritlm.serve.schemas.sampling import Seed, Stop, Temperature, TopK, TopP
from gritlm.serve.schemas.tools import MAX_CALLS, Name, Tools

Images = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(fail_fast=True, max_length=MAX_PARTS, description="Bytes of images in base64."),
]
NoText = Annotated[
    str,
    only("", why="this server does not support it; leave it out"),
    Field(json_schema_extra={"enum": [""]}),
]
_Text = Annotated[str, Field(min_length=1)]
ModelName = Annotated[
    str, Field(min_length=1, description="Name of the model, with or without ':latest'.")
]


class OllamaOptions(RequestModel):
    """Sampling settings; unlike in Ollama, the defaults are those of ``/v1/chat/completions``."""

    num_predict: int | None = Field(
        None, ge=-2, le=2**31 - 1, description="Most new tokens; 0 and less for as many as fit."
    )
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None


class OllamaRequest(RequestModel):
    """Fields of all requests that generate text."""

    model: ModelName
    options: OllamaOptions | None = None
    stream: bool | None = Field(None, description="true by default.")
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description="json, or a JSON schema."
    )
    rag: AnswerFields | None = Field(
        None, description="Answer the last message from the store of documents."
    )
    keep_alive: Hint = None
    think: Hint = None
    logprobs: Hint = None
    top_logprobs: Hint = None


class OllamaFunctionCall(RequestModel):
    name: Name
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: Hint = None


class OllamaToolCall(RequestModel):
    function: OllamaFunctionCall
    id: Hint = None
    type: Hint = None


class OllamaMessage(RequestModel):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    images: Images | None = None
    tool_calls: (
        Annotated[list[OllamaToolCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None
    ) = None
    tool_name: str | None = None
    tool_call_id: Hint = None
    thinking: Hint = None


class OllamaChatRequest(OllamaRequest):
    """Chat request as in Ollama's API; without messages, only the model's name is checked."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)] = (
        Field(default_factory=list)
    )
    tools: Tools | None = None


class OllamaGenerateRequest(OllamaRequest):
    """Generate request as in Ollama's API: the prompt is a message of the user."""

    prompt: str = ""
    system: str | None = None
    images: Images | None = None
    suffix: NoText | None = None
    template: NoText | None = None
    raw: Off | None = None
    context: Hint = None


class OllamaEmbedRequest(RequestModel):
    """Embed request as in Ollama's API; long texts are cut unless ``truncate`` is false."""

    model: ModelName
    input: (
        _Text | Annotated[list[_Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    )
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1, le=2**31 - 1)
    options: Hint = None
    keep_alive: Hint = None


class OllamaEmbeddingsRequest(RequestModel):
    """Request for one embedding, as in older versions of Ollama's API."""

    model: ModelName
    prompt: _Text
    options: Hint = None
    keep_alive: Hint = None


class OllamaShowRequest(RequestModel):
    model: ModelName
    verbose: Hint = None


class OllamaCounts(ResponseModel):
    """The end of a text, with tokens and nanoseconds; absent before the last event of a stream."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    rag: RagResult | None = None


class OllamaReplyFunction(ResponseModel):
    name: str
    arguments: dict[str, Any]


class OllamaReplyCall(ResponseModel):
    function: OllamaReplyFunction


class OllamaReply(ResponseModel):
    role: Literal["assistant"]
    content: str
    tool_calls: list[OllamaReplyCall] | None = None


class OllamaChatResponse(OllamaCounts):
    message: OllamaReply


class OllamaGenerateResponse(OllamaCounts):
    response: str


class OllamaEmbedResponse(ResponseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsResponse(ResponseModel):
    embedding: list[float]


class OllamaDetails(ResponseModel):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(ResponseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModelList(ResponseModel):
    models: list[OllamaModel]


class OllamaShowResponse(ResponseModel):
    modelfile: str
    parameters: str
    template: str
    modified_at: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaVersion(ResponseModel):
    version: str


class OllamaError(ResponseModel):
    error: str
