"""Settings of an adaptation. Invalid values raise an error before anything is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gritlm.errors import InputError, choice

WrittenKind = Literal["factual", "topic"]  # written by a model
WRITTEN_KINDS: tuple[WrittenKind, ...] = get_args(WrittenKind)
QuestionKind = Literal["factual", "topic", "keyword", "claim"]
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)
Stage = Literal["filter", "negatives", "kl"]
STAGES: tuple[Stage, ...] = get_args(Stage)

FEWEST_PASSAGES = 20  # of the training documents; fewer are refused
FEW_PASSAGES = 200  # fewer are used, with a warning
OPENAI = "openai:"

_COUNTS = (
    "per_passage",
    "max_passages",
    "top_k",
    "negatives",
    "steps",
    "batch_size",
    "generative_batch_size",
    "lora_r",
    "report_limit",
)
# Settings that change no result, so that a run may go on with other ones.
_FREE = ("to", "device")


@dataclass(frozen=True)
class AdaptConfig:
    """Settings of an adaptation.

    Attributes:
        documents: files, folders of files, or files of rows, as ``gritlm index`` takes them.
        to: folder of the run, which becomes the adapter.
        model: ``default``, ``base``, or a folder or hub id.
        text_field: name of the text in rows of files; None for its usual names.
        questions: JSON lines of questions people asked, each with ``question`` and, if known, the
            id of its ``document`` or ``passage`` and its ``answer``. Questions on documents of the
            training part are trained, the others are in the report.
        report_questions: the same, but no question is trained: all are in the report. Each needs
            its ``document`` or ``passage``.
        questions_from: ``openai:BASE_URL#MODEL``, an endpoint of OpenAI's API that writes the
            questions; None for the model itself.
        chats: file of conversations that hold the model to what it could do before; None for
            answers of the model itself to general requests.
        kinds: kinds of questions: ``factual`` and ``topic`` (written by a model, on one sentence or
            on the beginning of a passage), ``keyword`` (key terms of a passage), ``claim`` (a
            sentence of a passage).
        per_passage: most factual questions, and most topic questions, of a passage.
        max_passages: most passages that are used; whole documents are left out beyond it.
        max_tokens: most tokens of a passage.
        held_out: share of the documents that are not trained, for the report.
        top_k: the passage of a question must be among this many nearest ones.
        negatives: hard negatives of a question.
        margin: a passage is no negative if the question's mean log-probability per token after it
            is above that after its own passage less this margin.
        steps: training steps; None: as many as ``minutes`` allow, at most two passes over the rows.
        minutes: minutes of training, from which the number of steps follows.
        batch_size: questions of a step.
        generative_batch_size: answers and conversations of a step.
        frozen: share of the layers, from the lowest one, that are not trained: a step costs less.
        learning_rate: peak learning rate.
        kl_weight: weight of the divergence from the base on conversations, and from fresh passages
            on answers over cached ones.
        lora_r: rank of a new adapter; the adapter of the model is continued with its own rank.
        general: names of tasks that show whether general abilities are kept: samples of this
            package, or tasks in ``general_data``.
        general_data: folder of local tasks; all of them are measured if ``general`` is empty.
        report_limit: most rows of a task of the report.
        without: stages to leave out, to measure their worth.
        seed: seed of all random choices.
        device: device of the model; None for the best one.
    """

    documents: tuple[str, ...]
    to: str
    model: str = "default"
    text_field: str | None = None
    questions: str | None = None
    report_questions: str | None = None
    questions_from: str | None = None
    chats: str | None = None
    kinds: tuple[QuestionKind, ...] = QUESTION_KINDS
    per_passage: int = 2
    max_passages: int = 2000
    max_tokens: int = 256
    held_out: float = 0.15
    top_k: int = 10
    negatives: int = 1
    margin: float = 0.1
    steps: int | None = None
    minutes: float = 30.0
    batch_size: int = 16
    generative_batch_size: int = 4
    frozen: float = 0.5
    learning_rate: float = 1e-4
    kl_weight: float = 1.0
    lora_r: int = 16
    general: tuple[str, ...] = ("Banking77", "MuSiQue-paragraphs", "MuSiQue-RAG", "commonsense_qa")
    general_data: str | None = None
    report_limit: int = 200
    without: tuple[Stage, ...] = ()
    seed: int = 42
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.documents:
            raise InputError("documents is empty; expected files or folders")
        if not self.kinds:
            raise InputError(f"kinds is empty; expected some of {', '.join(QUESTION_KINDS)}")
        for kind in self.kinds:
            choice(kind, QUESTION_KINDS, name="kinds")
        for stage in self.without:
            choice(stage, STAGES, name="without")
        self._require_numbers()
        if self.questions_from is not None:
            _ = self.endpoint

    def _require_numbers(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} = {value}; expected at least 1")
        for name in ("minutes", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} = {getattr(self, name)}; expected a number above 0")
        for name in ("kl_weight", "margin"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)}; expected a number of at least 0")
        if not 0 <= self.frozen < 1:
            raise InputError(f"frozen = {self.frozen}; expected a share of at least 0 and below 1")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out = {self.held_out}; expected a share above 0 and below 1")

    @property
    def endpoint(self) -> tuple[str, str] | None:
        """Address and model of the endpoint that writes the questions; None without one.

        Raises:
            InputError: if the setting has another form.
        """
        if self.questions_from is None:
            return None
        address, _, model = self.questions_from.removeprefix(OPENAI).partition("#")
        web = address.startswith(("http://", "https://"))
        if not self.questions_from.startswith(OPENAI) or not web or not model:
            raise InputError(
                f"questions_from = {self.questions_from!r}; expected openai:BASE_URL#MODEL, such "
                "as openai:http://127.0.0.1:8000/v1#gritlm"
            )
        return address, model

    def fixed(self) -> dict[str, Any]:
        """Return the settings that a run must keep, as JSON values."""
        found = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}
