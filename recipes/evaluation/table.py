"""Table of all tasks: source, reader and name in the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asking
import passages
import similar
import writing
from contents import Content

ASK = "Given a question, retrieve passages that answer it"
ALIKE = "Retrieve semantically similar text"
LANGUAGES = {
    "ar": "ara",
    "de": "deu",
    "el": "ell",
    "en": "eng",
    "es": "spa",
    "fr": "fra",
    "hi": "hin",
    "it": "ita",
    "ja": "jpn",
    "nl": "nld",
    "pl": "pol",
    "pt": "por",
    "ro": "ron",
    "ru": "rus",
    "th": "tha",
    "tr": "tur",
    "vi": "vie",
    "zh": "cmn",
}
SIMILAR = ("de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh")
ASKED = ("en", "de", "es", "zh", "ar", "el", "hi", "ro", "ru", "th", "tr", "vi")


@dataclass(frozen=True)
class Made:
    """Task with its source.

    Attributes:
        folder: folder of the data set.
        read: function from that folder to the content of the task.
        description: text with the names of ``contents.counted`` in braces for row counts.
        type: type of the task; missing for generation tasks, whose task.yaml has it.
        sample: number of rows in a sample; 0 if the licence forbids copies, or to leave it out.
        licence: licence, if SOURCE.txt covers several sets; else the one of SOURCE.txt is used.
        optional: whether a copy of the data sets may lack it.
    """

    name: str
    folder: str
    read: Callable[[Path], Content]
    description: str
    type: str | None = None
    instruction: str = ""
    language: str = "eng"
    sample: int = 0
    licence: str = ""
    optional: bool = False

    @property
    def half(self) -> str:
        if self.type is None:
            return "generation"
        return "rag" if self.type == "QA" else "embedding"


def _similarity(language: str, split: str) -> Made:
    name = f"STSBenchmark-{split}" if language == "en" else f"STSBenchmark-{language}"
    return Made(
        name,
        "stsbenchmark",
        partial(similar.ratings, language=language, split=split),
        f"Sentence pairs of the STS benchmark, split {split}, rated 0 to 5",
        "STS",
        ALIKE,
        LANGUAGES[language],
        optional=(language, split) == ("en", "test"),
    )


def _xquad(language: str, *, english: bool = False) -> Made:
    def read(folder: Path) -> Content:
        rows = passages.xquad(folder, language=language, passages="en" if english else None)
        return asking.retrieval(rows)

    name = f"XQuAD-{language}-en" if english else f"XQuAD-{language}"
    what = "the English paragraphs" if english else "240 paragraphs of the same language"
    about = f"Questions in {LANGUAGES[language]} and {what} that answer them"
    return Made(name, "xquad", read, about, "Retrieval", ASK, LANGUAGES[language])


def _covid(folder: Path) -> Content:
    return asking.retrieval(*passages.covid(folder))


def _pooled(name: str, read: Callable[[Path], list[passages.Asked]]) -> Callable[[Path], Content]:
    return lambda folder: asking.retrieval(read(folder), passages.pooled(folder, name))


def _hard(read: Callable[[Path], list[passages.Asked]]) -> Callable[[Path], Content]:
    return lambda folder: asking.answering(asking.hardest_first(read(folder)))


HOTPOT = "HotpotQA CC BY-SA 4.0"
MUSIQUE = "MuSiQue CC BY 4.0"

EMBEDDING = (
    _similarity("en", "dev"),
    _similarity("en", "test"),
    *(_similarity(language, "test") for language in SIMILAR),
    Made(
        "COVID-similar-questions",
        "covid-qa",
        similar.similar_questions,
        "Pairs of questions on COVID-19: do they ask for the same thing?",
        "PairClassification",
        "Retrieve questions that ask for the same thing",
        sample=240,
        licence="Apache-2.0",
    ),
    Made(
        "LegalBench-clauses",
        "legalbench",
        similar.clauses,
        "Questions on clauses of contracts (CUAD, ContractNLI), and clauses they hold for or not",
        "PairClassification",
        "Retrieve the clause that the question is about",
        licence="CC BY 4.0",
    ),
    Made(
        "Banking77",
        "banking77",
        partial(similar.banking, train=True),
        "Customers' questions to a bank by their intent, official splits",
        "Classification",
        "Represent the intent of the customer's question",
        sample=300,
    ),
    Made(
        "CLINC150",
        "clinc150",
        partial(similar.clinc, train=True),
        "Requests to an assistant by their intent, official splits without those out of scope",
        "Classification",
        "Represent the intent of the request",
    ),
    Made(
        "HotpotQA-question-type",
        "hotpot-fever-dev",
        similar.reasoning,
        "Questions by what they need: a comparison or a bridge; a quarter of them to learn from",
        "Classification",
        "Represent the kind of reasoning that the question needs",
        licence=HOTPOT,
    ),
    Made(
        "Banking77-clusters",
        "banking77",
        partial(similar.banking, train=False),
        "Customers' questions to a bank, test split, in groups by intent",
        "Clustering",
        "Represent the intent of the customer's question",
    ),
    Made(
        "CLINC150-clusters",
        "clinc150",
        similar.clinc,
        "Requests to an assistant, test split, in groups by intent",
        "Clustering",
        "Represent the intent of the request",
    ),
    Made(
        "CLINC150-domains",
        "clinc150",
        partial(similar.clinc, domains=True),
        "Requests to an assistant, test split, in groups by domain",
        "Clustering",
        "Represent the domain of the request",
        sample=300,
    ),
    Made(
        "LiveQA-Med",
        "medquad",
        asking.live_questions,
        "Medical questions and graded answers, those graded 3 and 4 against those graded 1 and 2; "
        "the question is that of the best answer, as the real ones are not in the set",
        "Reranking",
        "Given a question about health, find its answer",
    ),
    Made(
        "MuSiQue-paragraphs",
        "hipporag-train100",
        lambda folder: asking.reranking(asking.hardest_first(passages.musique(folder))),
        "Multi-hop questions: the paragraphs that support the answer among {documents}",
        "Reranking",
        ASK,
        sample=20,
        licence=MUSIQUE,
    ),
    Made(
        "NQ-report",
        "nq-open-oracle",
        asking.measured_questions,
        "The last 300 questions of Natural Questions in the passages of all 1,655",
        "Retrieval",
        ASK,
    ),
    Made(
        "NQ-openbook",
        "nq-openbook-quac",
        lambda folder: asking.retrieval(passages.open_book(folder)),
        "824 questions of Natural Questions and their long answers",
        "Retrieval",
        ASK,
        licence="NQ CC BY-SA 3.0",
    ),
    Made(
        "HotpotQA",
        "hipporag-train100",
        _pooled("hotpotqa", passages.hotpot),
        "100 multi-hop questions in their pooled paragraphs",
        "Retrieval",
        ASK,
        licence=HOTPOT,
    ),
    Made(
        "MuSiQue",
        "hipporag-train100",
        _pooled("musique", passages.musique),
        "100 multi-hop questions in their pooled paragraphs",
        "Retrieval",
        ASK,
        licence=MUSIQUE,
    ),
    Made(
        "COVID-QA",
        "covid-qa",
        _covid,
        "Experts' questions and pieces of the articles that answer them",
        "Retrieval",
        ASK,
        sample=50,
        licence="Apache-2.0 (articles CC BY)",
    ),
    Made(
        "PubMedQA",
        "pubmedqa",
        lambda folder: asking.retrieval(passages.pubmed(folder)),
        "Titles of papers that are questions, and the abstracts without their conclusions",
        "Retrieval",
        "Given a biomedical question, retrieve the abstract that answers it",
        sample=50,
    ),
    *map(_xquad, ASKED),
    *(_xquad(language, english=True) for language in ASKED if language != "en"),
)

RAG = (
    Made(
        "NQ-report-RAG",
        "nq-open-oracle",
        asking.questions_among_passages,
        "The last 300 questions of Natural Questions; four distractors without an answer",
        "QA",
    ),
    Made(
        "XQuAD-RAG",
        "xquad",
        asking.paragraphs_among_others,
        "English questions and paragraphs; four distractors of other articles",
        "QA",
    ),
    Made(
        "HotpotQA-RAG",
        "hipporag-train100",
        _hard(passages.hotpot),
        "Multi-hop questions with ten paragraphs, some two of them needed",
        "QA",
        licence=HOTPOT,
    ),
    Made(
        "MuSiQue-RAG",
        "hipporag-train100",
        _hard(passages.musique),
        "Multi-hop questions with {documents} paragraphs, two to four of them needed",
        "QA",
        sample=40,
        licence=MUSIQUE,
    ),
    Made(
        "KV-RAG",
        "kv-retrieval",
        asking.exact_recall,
        "Recall of a random value among {documents} keys and values",
        "QA",
        sample=8,
    ),
)


def _gauntlet(name: str, path: str, row: Callable[..., object], about: str, **more: object) -> Made:
    return Made(name, "eval-gauntlet", writing.gauntlet(path, row), about, **more)  # type: ignore[arg-type]


# Names are those of the folders in tasks/, which have a task.yaml each.
GENERATION = (
    Made(
        "ifeval",
        "ifeval",
        writing.instructions,
        "Instructions whose following a program can check",
        sample=10,
    ),
    Made(
        "gsm8k",
        "gsm8k",
        writing.mathematics,
        "Grade-school mathematics, test split, five solved examples in front",
        sample=12,
    ),
    Made(
        "mmlu",
        "mmlu",
        writing.subjects,
        "Exam questions on {subjects} subjects, five answered examples in front",
        sample=60,
    ),
    Made("bbh", "bbh", writing.hard_tasks, "Hard tasks of BIG-bench, with worked examples"),
    Made(
        "truthfulqa_mc1",
        "truthfulqa",
        partial(writing.truthful, several=False),
        "Questions that many people answer wrongly, one right choice",
        sample=40,
    ),
    Made(
        "truthfulqa_mc2",
        "truthfulqa",
        partial(writing.truthful, several=True),
        "Questions that many people answer wrongly, several right choices",
    ),
    _gauntlet(
        "arc_easy",
        "world_knowledge/arc_easy.jsonl",
        writing.question,
        "Science questions of schools, the easy ones",
        licence="ARC CC BY-SA 4.0",
    ),
    _gauntlet(
        "arc_challenge",
        "world_knowledge/arc_challenge.jsonl",
        writing.question,
        "Science questions of schools, the hard ones",
        licence="ARC CC BY-SA 4.0",
    ),
    _gauntlet(
        "piqa",
        "commonsense_reasoning/piqa.jsonl",
        writing.question,
        "Which of two ways reaches a physical goal?",
        licence="PIQA AFL 3.0",
    ),
    _gauntlet(
        "openbookqa",
        "commonsense_reasoning/openbook_qa.jsonl",
        lambda row: {name: row[name] for name in ("query", "choices", "gold")},
        "Elementary science that needs a common fact",
    ),
    _gauntlet(
        "commonsense_qa",
        "commonsense_reasoning/commonsense_qa.jsonl",
        writing.lettered,
        "Everyday knowledge; four choices of the original five",
        sample=100,
        licence="CommonsenseQA MIT",
    ),
    _gauntlet(
        "copa",
        "commonsense_reasoning/copa.jsonl",
        writing.premise,
        "The more likely cause or effect",
        licence="COPA BSD-2-Clause",
    ),
    _gauntlet(
        "boolq",
        "reading_comprehension/boolq.jsonl",
        writing.yes_or_no,
        "Yes or no, from a passage",
        licence="BoolQ CC BY-SA 3.0",
    ),
    _gauntlet(
        "winogrande",
        "language_understanding/winogrande.jsonl",
        writing.blank,
        "Which of two names a sentence is about",
        sample=100,
        licence="WinoGrande CC BY",
    ),
    _gauntlet(
        "lambada",
        "language_understanding/lambada_openai.jsonl",
        writing.last_word,
        "The last word of a passage of a novel",
        licence="LAMBADA CC BY 4.0, of unpublished novels",
    ),
    _gauntlet(
        "triviaqa",
        "world_knowledge/triviaqa_sm_sub.jsonl",
        writing.trivia,
        "Trivia questions without any text to look in",
        licence="TriviaQA Apache-2.0",
    ),
)

TASKS = (*EMBEDDING, *GENERATION, *RAG)
