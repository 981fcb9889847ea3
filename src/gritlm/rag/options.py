"""Settings of an answer from documents: its search, its prompt, its sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from gritlm.errors import InputError, UnknownArgumentError, choice, did_you_mean
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import RAG_FORMS, RagMode
from gritlm.rag.fusion import FUSIONS, Fusion
from gritlm.rag.rerank import RerankMethod
from gritlm.rag.retrieve import Search
from gritlm.rag.reuse.recompute import BEST, Recompute
from gritlm.rag.types import BLOCK_KINDS, BlockKind


@dataclass(frozen=True)
class AnswerOptions:
    """Settings of one answer from documents.

    Attributes:
        top_k: number of candidates: passages that the answer may come from.
        filter: ``{"name": value}`` of metadata, or a condition in SQL; None searches everything.
        hybrid: search by words too, fused with the vector search by reciprocal rank.
        rerank: number of candidates that the model itself puts in order; 0 for no reranking.
        rerank_method: ``likelihood`` ranks by the likelihood of the question after each
            passage, with the cosine as the model's calibration weighs it; ``yes-no`` asks the model
            whether each passage answers the question.
        fusion: use of several passages: ``sequence`` reads each alone and answers from the best
            one, ``token`` mixes the distributions of all at every token, ``joint`` puts all into
            one prompt. None for ``sequence`` in mode ``doc``, for ``joint`` in the other modes.
        margin: passages within this cosine of the best one are read, for ``sequence`` and
            ``token``; None for the calibration of the model. Without a calibration, ``sequence``
            reads the first passage. At most 32 passages are read alone.
        contrast: weight of the contrast to a row without passage, for ``token``; 0 for none.
        mode: the part of the prompt that is reused: ``none``, ``query``, ``doc``, ``doc-query`` or
            ``query-doc``.
        blocks: kind of the key/value blocks, ``bidirectional`` or ``causal``; None for the blocks
            that are at hand: documents as the workspace stores them, the question as it was
            embedded.
        recompute: tokens that are recomputed when a prompt has several blocks (``joint``); None
            for no tokens. The default is the best passage, and the first 16 tokens of the others.
        sampling: length, temperature, nucleus, seed and stop strings of the answer.

    Raises:
        InputError: for an unknown mode, fusion or kind, settings that exclude each other, a number
            out of range, or ``sampling.logprobs``.
    """

    top_k: int = 5
    filter: str | Mapping[str, Any] | None = None
    hybrid: bool = False
    rerank: int = 0
    rerank_method: RerankMethod = "likelihood"
    fusion: Fusion | None = None
    margin: float | None = None
    contrast: float = 0.0
    mode: RagMode = "doc"
    blocks: BlockKind | None = None
    recompute: Recompute | None = BEST
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        _ = self.search  # checks its numbers
        choice(self.mode, RAG_FORMS, name="mode")
        if self.fusion is not None:
            choice(self.fusion, FUSIONS, name="fusion")
        if self.blocks is not None:
            choice(self.blocks, BLOCK_KINDS, name="blocks")
        self._check_fusion()
        if self.sampling.logprobs is not None:
            raise InputError(
                f"sampling.logprobs is {self.sampling.logprobs}, but an answer from documents "
                "reports no log-probabilities; leave it None"
            )

    def _check_fusion(self) -> None:
        if self.fuses != "joint" and self.mode not in ("doc", "none"):
            raise InputError(
                f"mode {self.mode!r} puts all passages into one prompt, fusion {self.fusion!r} "
                "reads each alone; use fusion='joint', or mode 'doc'"
            )
        if self.margin is not None and not 0 <= self.margin <= 2:
            raise InputError(f"margin is {self.margin}; expected a cosine from 0 to 2")
        if not 0 <= self.contrast < float("inf"):
            raise InputError(f"contrast is {self.contrast}; expected a finite number >= 0")
        if self.contrast and self.fuses != "token":
            raise InputError(
                f"contrast is {self.contrast}, but only fusion 'token' has one; leave it 0"
            )

    @property
    def fuses(self) -> Fusion:
        """The use of several passages, with the default filled in."""
        if self.fusion is not None:
            return self.fusion
        return "sequence" if self.mode == "doc" else "joint"

    @property
    def search(self) -> Search:
        """The search for passages. An answer shows no metadata, so large ones are not read."""
        return Search(
            self.top_k, self.filter, self.hybrid, self.rerank, self.rerank_method, whole=False
        )


class AnswerOverrides(TypedDict, total=False):
    """Keyword arguments that replace fields of :class:`AnswerOptions` in one call.

    ``max_new_tokens`` stands for that field of ``sampling``.
    """

    top_k: int
    filter: str | Mapping[str, Any] | None
    hybrid: bool
    rerank: int
    rerank_method: RerankMethod
    fusion: Fusion | None
    margin: float | None
    contrast: float
    mode: RagMode
    blocks: BlockKind | None
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
