"""Client of the documents on a gritlm server: searches and answers over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from typing import Any, Unpack

import httpx

from gritlm.errors import GritLMError, InputError, one_line
from gritlm.rag.answer import Answer, AnswerStream, Source
from gritlm.rag.options import AnswerOptions, AnswerOverrides, override
from gritlm.rag.retrieve import Search
from gritlm.rag.types import Hit, Passage, Trace, with_page

_SET_BY_SERVER = ("recompute",)


class ServerError(GritLMError, RuntimeError):
    """A request that a server refused or did not answer."""


@dataclass(frozen=True)
class RagClient:
    """Documents on a gritlm server, with the methods of :class:`gritlm.rag.RagEngine`.

    Attributes:
        base_url: address of the server, with or without ``/v1``.
        api_key: key of the server; None for a server without keys.
        timeout_s: seconds to wait for a response, and between two events of a stream.
        store: name of the store on the server; None for its only one, or the one named default.
    """

    base_url: str = "http://127.0.0.1:8000"
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    store: str | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"base_url={self.base_url!r}; expected http://host:port")

    def find(self, question: str, search: Search) -> list[Hit]:
        """Return the passages for a question, the best first.

        Args:
            question: the question.
            search: settings of the search; a filter in SQL is for engines in process.

        Raises:
            ServerError: when the server refuses the request or does not answer.
        """
        body = {"question": question, **_search_fields(search)}
        with self._request("/v1/rag/search", body) as response, self._understood():
            return [_hit(row) for row in json.loads(response.read())["data"]]

    def answer(
        self,
        question: str,
        options: AnswerOptions | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> Answer:
        """Return an answer with its sources and its trace.

        Args:
            question: the question.
            options: settings of the search, the prompt and the sampling; None for the defaults.
            overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

        Raises:
            ServerError: when the server refuses the request or does not answer.
        """
        return self.stream(question, options, **overrides).whole()

    def stream(
        self,
        question: str,
        options: AnswerOptions | None = None,
        *,
        hits: Sequence[Hit] | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> AnswerStream:
        """Return an iterator over the pieces of an answer, whose sources are known.

        Args:
            question: the question.
            options: settings of the search, the prompt and the sampling; None for the defaults.
            hits: always None, because a server searches itself.
            overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

        Raises:
            InputError: for passages of an earlier search.
            ServerError: when the server refuses the request or does not answer.
        """
        if hits is not None:
            raise InputError(
                f"{len(hits)} passages were passed to a server, which searches itself; pass the "
                "question alone, or use a RagEngine in this process"
            )
        body = {"question": question, **_answer_fields(override(options, overrides))}
        events = self._events("/v1/rag/answer", body)
        trace = Trace()
        with self._understood():
            first = next(events)
            sources = [_source(row) for row in first["sources"]]
        return AnswerStream(_pieces(chain([first], events), trace), sources, trace)

    def _events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream; the connection closes with the iterator."""
        with self._request(path, {**body, "stream": True}) as response:
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data in ("", "[DONE]"):
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(f"{self.base_url}: {one_line(event['error']['message'])}")
                yield event

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn the errors of a response in another form into one."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ServerError(
                f"{self.base_url} is no gritlm server, or of another version ({reason})"
            ) from None

    def _place(self) -> dict[str, str]:
        """Return the field that names the store; servers of earlier versions do not have it."""
        return {} if self.store is None else {"store": self.store}

    @contextmanager
    def _request(self, path: str, body: Mapping[str, Any]) -> Iterator[httpx.Response]:
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        url = self.base_url.rstrip("/").removesuffix("/v1") + path
        try:
            with httpx.stream(
                "POST", url, json={**body, **self._place()}, headers=headers, timeout=self.timeout_s
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise ServerError(f"{url}: {_refusal(response)}")
                yield response
        except httpx.HTTPError as error:
            reason = one_line(error) or type(error).__name__
            raise ServerError(f"{url} did not answer: {reason}; is gritlm serve running?") from None


def _refusal(response: httpx.Response) -> str:
    """Return status and message of an error response."""
    text = response.read().decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError):  # a proxy may answer in another form
        text = json.loads(text)["error"]["message"]
    return f"status {response.status_code}: {one_line(text)}"


def _search_fields(search: Search) -> dict[str, Any]:
    known = asdict(search)
    del known["whole"]
    if isinstance(search.filter, str):
        raise InputError(
            f"filter={search.filter!r} is a condition in SQL, which a server does not take; "
            "pass {'name': value}"
        )
    return known


def _answer_fields(options: AnswerOptions) -> dict[str, Any]:
    """Return the fields of a request for an answer.

    Raises:
        InputError: for a setting that requests do not have.
    """
    defaults = AnswerOptions()
    for name in _SET_BY_SERVER:
        if getattr(options, name) != getattr(defaults, name):
            raise InputError(f"{name} cannot be set over HTTP; leave it at its default")
    sampling = options.sampling
    if sampling.top_k:
        raise InputError(f"sampling.top_k={sampling.top_k} cannot be set over HTTP; leave it 0")
    return {
        **_search_fields(options.search),
        "fusion": options.fusion,
        "margin": options.margin,
        "contrast": options.contrast,
        "mode": options.mode,
        "blocks": options.blocks,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
    }


def _source(row: Mapping[str, Any]) -> Source:
    """Return the source in a response; fields of newer servers are left out."""
    known = {each.name for each in fields(Source)}
    values = {name: value for name, value in row.items() if name in known}
    return Source(**(values | {"also_in": tuple(row["also_in"])}))


def _hit(row: Mapping[str, Any]) -> Hit:
    """Return the hit in a response, with a passage whose number the server does not report."""
    passage = Passage(
        id=row["id"],
        document_id=row["document_id"],
        title=row["title"],
        text=row["text"],
        number=0,
        start=row["start"],
        end=row["end"],
        metadata=with_page(row["metadata"] or {}, None if row.get("media") else row.get("page")),
    )
    return Hit(passage, row["score"], row["rank"], tuple(row["also_in"]))


def _pieces(events: Iterable[Mapping[str, Any]], trace: Trace) -> Iterator[str]:
    """Yield the text of events, and fill the trace from the last one."""
    known = {each.name for each in fields(Trace)}
    for event in events:
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text
        if sent := event.get("trace"):
            vars(trace).update({name: value for name, value in sent.items() if name in known})
            trace.dropped = tuple(trace.dropped)
