"""Settings of an answer from documents: its search, its prompt, its sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from gritlm.errors import InputError, UnknownArgumentError, choice, did_you_mean
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import RAG_FORMS, RagMode
from gritlm.rag.plan import BLOCK_KINDS, BlockKind
from gritlm.rag.retrieve import Search
from gritlm.rag.reuse.recompute import FIRST, Recompute

Mode = RagMode | Literal["auto"]


@dataclass(frozen=True)
class AnswerOptions:
    """Settings of one answer from documents.

    Attributes:
        top_k: number of passages to answer from.
        filter: ``{"name": value}`` of metadata, or a condition in SQL; None searches everything.
        hybrid: search by words too, fused with the vector search by reciprocal rank.
        rerank: number of candidates that the model itself puts in order; 0 for no reranking.
        mode: the part of the prompt that is reused: ``none``, ``query``, ``doc``, ``doc-query``,
            ``query-doc``, or ``auto`` for the fastest of the first three on this machine.
        blocks: kind of the documents' key/value blocks, ``bidirectional`` or ``causal``.
        recompute: tokens of the blocks that are recomputed; None for no tokens. The default, the
            first 16 of each block but the first, is the one of training, and changes nothing for
            a single document. Measurements: docs/log.md.
        sampling: length, temperature, nucleus, seed and stop strings of the answer.

    Raises:
        InputError: for an unknown mode or kind, a number out of range, or ``sampling.logprobs``.
    """

    top_k: int = 3
    filter: str | Mapping[str, Any] | None = None
    hybrid: bool = False
    rerank: int = 0
    mode: Mode = "doc"
    blocks: BlockKind = "bidirectional"
    recompute: Recompute | None = FIRST
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        _ = self.search  # checks its numbers
        choice(self.mode, [*RAG_FORMS, "auto"], name="mode")
        choice(self.blocks, BLOCK_KINDS, name="blocks")
        if self.sampling.logprobs is not None:
            raise InputError(
                f"sampling.logprobs is {self.sampling.logprobs}, but an answer from documents "
                "reports no log-probabilities; leave it None"
            )

    @property
    def search(self) -> Search:
        """The search for passages. An answer shows no metadata, so large ones are not read."""
        return Search(self.top_k, self.filter, self.hybrid, self.rerank, whole=False)


class AnswerOverrides(TypedDict, total=False):
    """Keyword arguments that replace fields of :class:`AnswerOptions` in one call.

    ``max_new_tokens`` stands for that field of ``sampling``.
    """

    top_k: int
    filter: str | Mapping[str, Any] | None
    hybrid: bool
    rerank: int
    mode: Mode
    blocks: BlockKind
    recompute: Recompute | None
    sampling: SamplingParams
    max_new_tokens: int


def override(options: AnswerOptions | None, overrides: AnswerOverrides) -> AnswerOptions:
    """Return the options with some fields replaced.

    Args:
        options: the options to start from; None for the defaults.
        overrides: new values of single fields.

    Raises:
        UnknownArgumentError: for a name that is no field of :class:`AnswerOptions`.
        InputError: for a value that :class:`AnswerOptions` refuses.
    """
    options = AnswerOptions() if options is None else options
    for name in overrides:
        if name not in AnswerOverrides.__annotations__:
            raise UnknownArgumentError(
                f"RagEngine.answer() got an unknown argument {name!r}{_hint(name)}"
            )
    changes: dict[str, Any] = dict(overrides)
    if "max_new_tokens" in changes:
        sampling = changes.get("sampling", options.sampling)
        tokens = changes.pop("max_new_tokens")
        changes["sampling"] = replace(sampling, max_new_tokens=tokens)
    return replace(options, **changes)


def _hint(name: str) -> str:
    if name == "stream":
        return "; call RagEngine.stream() for the pieces of an answer"
    if name in {each.name for each in fields(SamplingParams)}:
        return f"; pass sampling=SamplingParams({name}=...)"
    return f"{did_you_mean(name, AnswerOverrides.__annotations__)} (see AnswerOptions)"
