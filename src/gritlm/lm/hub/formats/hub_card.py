"""Model card with the metadata that model hubs read: licence, languages, data, scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from gritlm.lm.hub.model_config import ModelSettings

CARD_FILE = "README.md"
_TASKS = {
    "STS": "semantic-similarity",
    "Retrieval": "retrieval",
    "Reranking": "reranking",
    "Classification": "classification",
    "Clustering": "clustering",
    "PairClassification": "pair-classification",
    "QA": "question-answering",
}


@dataclass(frozen=True)
class CardScore:
    """Score of a task for a model card.

    Attributes:
        task: name of the task.
        kind: type of the task, such as ``STS`` or ``Retrieval``.
        metric: name of the metric.
        score: value, in percent where it is a share.
    """

    task: str
    kind: str
    metric: str
    score: float


@dataclass(frozen=True)
class CardFacts:
    """Facts of a model card that a model does not know itself; empty ones are left out.

    Attributes:
        base_model: hub id of the model that this one was trained from.
        license: identifier of the licence: ``apache-2.0``.
        languages: codes of the languages: ``en``.
        datasets: hub ids of the training data.
        scores: scores of tasks.
    """

    base_model: str = ""
    license: str = ""
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    scores: tuple[CardScore, ...] = ()


def known_facts(folder: Path) -> CardFacts:
    """Return the facts in the model card of a folder, without scores; none without a card."""
    try:
        data = ModelCard.load(folder / CARD_FILE).data
    except (OSError, ValueError, YAMLError):
        return CardFacts()
    return CardFacts(
        base_model=next(iter(_words(data.base_model)), ""),
        license=next(iter(_words(data.license)), ""),
        languages=_words(data.language),
        datasets=_words(data.datasets),
    )


def _words(value: object) -> tuple[str, ...]:
    """Return a value of a card's front matter, a text or a list of texts."""
    many = value if isinstance(value, list) else [value]
    return tuple(each for each in many if isinstance(each, str) and each)


def write(folder: Path, name: str, settings: ModelSettings, facts: CardFacts) -> None:
    """Write ``README.md`` to a folder of :func:`gritlm.lm.hub.checkpoint.save`.

    Args:
        folder: the folder.
        name: name of the model, ``owner/model`` on a hub.
        settings: settings of the model.
        facts: facts of the card.
    """
    (folder / CARD_FILE).write_text(text(name, settings, facts), encoding="utf-8")


def text(name: str, settings: ModelSettings, facts: CardFacts) -> str:
    """Return the text of a model card."""
    title = name.rpartition("/")[2]
    data = ModelCardData(
        base_model=facts.base_model or None,
        language=list(facts.languages) or None,
        license=facts.license or None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[
            "sentence-transformers",
            "sentence-similarity",
            "feature-extraction",
            "text-generation",
            "gritlm",
        ],
        datasets=list(facts.datasets) or None,
        model_name=title if facts.scores else None,
        eval_results=[_result(score) for score in facts.scores] or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_body(name, title, settings, facts))


def _result(score: CardScore) -> EvalResult:
    return EvalResult(
        task_type=_TASKS.get(score.kind, "text-generation"),
        dataset_type=score.task,
        dataset_name=score.task,
        metric_type=score.metric,
        metric_value=round(score.score, 3),
    )


def _body(name: str, title: str, settings: ModelSettings, facts: CardFacts) -> list[str]:
    lines = [
        f"# {title}",
        "",
        "One language model that embeds (reading in both directions) and generates (reading from",
        "left to right). Written by gritlm.",
        "",
        "```python",
        "from gritlm import GritLM",
        "",
        f'model = GritLM("{name}")',
        'vectors = model.encode_document(["Tears clean your eyes."])',
        'query = model.encode_query("What do tears do?")',
        "print(model.similarity(query, vectors))",
        'print(model.chat("What is a volcano?"))',
        "```",
        "",
        "The same vectors with sentence-transformers:",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{name}")',
        'print(model.encode_query("What do tears do?"))',
        "```",
        "",
        "Chats with transformers: `AutoModelForCausalLM.from_pretrained`. With vLLM, which takes",
        f"such a model for one that only embeds: `vllm serve {name} --runner generate`.",
        "",
        f"Pooling: `{settings.pooling_method}`. Query instruction: `{settings.query_instruction}`.",
        "",
    ]
    if facts.scores:
        lines += ["## Scores", "", "| task | metric | score |", "|---|---|---:|"]
        lines += [f"| {each.task} | {each.metric} | {each.score:.1f} |" for each in facts.scores]
        lines.append("")
    return lines
