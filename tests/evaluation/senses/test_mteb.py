"""mteb's tasks of images and sound, with data put in place of what the hub would send."""

from __future__ import annotations

from typing import Any

import mteb
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError
from gritlm.evaluation.embedding import batches, mteb_run
from gritlm.evaluation.embedding.encoder import mteb_encoder
from tests.lm.media.conftest import image, sound

TEXTS = ["a red ball", "a blue car", "a green tree", "two cats"]
PICTURES = [image(seed) for seed in range(4)]


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a task of mteb load this."""

    def patch(name: str, **attributes: Any) -> None:
        def load_data(task: Any, **_: Any) -> None:
            vars(task).update(attributes, data_loaded=True)

        monkeypatch.setattr(type(mteb.get_task(name)), "load_data", load_data)

    return patch


def table(**columns: list[Any]) -> Dataset:
    kinds = {
        name: Image() if hasattr(values[0], "getbands") else Value("string")
        for name, values in columns.items()
        if name != "label"
    }
    if "label" in columns:
        kinds["label"] = Value("int64")
    return Dataset.from_dict(columns, features=Features(kinds))


def retrieval(*, queries: Dataset, corpus: Dataset) -> dict[str, Any]:
    relevant = {f"q{number}": {f"d{number}": 1} for number in range(4)}
    data = {"queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}
    return {"default": {"test": data}}


def ids(letter: str) -> list[str]:
    return [f"{letter}{number}" for number in range(4)]


def test_images_find_their_texts_as_by_hand(seeing: GritLM, sends):
    name = "Flickr30kI2TRetrieval"
    queries = table(id=ids("q"), image=PICTURES)
    corpus = table(id=ids("d"), text=TEXTS)
    sends(name, dataset=retrieval(queries=queries, corpus=corpus))
    found = mteb_run.measure(seeing, name)
    ask = gritlm_instruction("Find an image caption describing the following image.")
    pictures = [seeing.encode(picture, instruction=ask) for picture in PICTURES]
    texts = seeing.encode(TEXTS, instruction=gritlm_instruction())
    cosines = np.array(pictures) @ texts.T
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    assert found.metric == "ndcg_at_10"
    assert found.items == pytest.approx(1 / np.log2(1 + ranks))
    assert (found.count, found.half) == (4, "embedding")
    assert mteb_run.measure(seeing, name, limit=2).count == 2


def test_texts_find_their_pages(seeing: GritLM, sends):
    name = "VidoreArxivQARetrieval"
    queries = table(id=ids("q"), text=TEXTS)
    corpus = table(id=ids("d"), image=PICTURES)
    sends(name, dataset=retrieval(queries=queries, corpus=corpus))
    found = mteb_run.measure(seeing, name, batch_size=3)
    assert (found.metric, len(found.items)) == ("ndcg_at_5", 4)
    assert found.score > 0


def test_images_are_classified(seeing: GritLM, sends):
    rows = table(img=[image(n) for n in range(12)], label=[0, 1] * 6)
    sends("CIFAR10", dataset=DatasetDict(train=rows, test=rows))
    found = mteb_run.measure(seeing, "CIFAR10")
    assert (found.kind, found.metric, found.count) == ("ImageClassification", "accuracy", 12)
    assert len(found.items) == 12


def test_images_are_classified_by_names(seeing: GritLM, sends):
    rows = table(img=PICTURES, label=[0, 1, 1, 0]).cast_column(
        "label", ClassLabel(names=["ball", "tree"])
    )
    sends("CIFAR10ZeroShot", dataset=DatasetDict(test=rows))
    task = mteb.get_task("CIFAR10ZeroShot")
    task.load_data()
    names = seeing.encode(task.get_candidate_labels(), instruction=gritlm_instruction())
    each = [seeing.encode(picture, instruction=gritlm_instruction()) for picture in PICTURES]
    chosen = (np.array(each) @ names.T).argmax(axis=1)
    found = mteb_run.measure(seeing, "CIFAR10ZeroShot")
    assert (found.metric, found.count) == ("accuracy", 4)
    assert found.score == pytest.approx(100 * np.mean(chosen == [0, 1, 1, 0]))


def test_captions_are_matched(seeing: GritLM, sends):
    rows = table(
        image_0=PICTURES[:2], image_1=PICTURES[2:], caption_0=TEXTS[:2], caption_1=TEXTS[2:]
    )
    sends("Winoground", dataset=DatasetDict(test=rows))
    found = mteb_run.measure(seeing, "Winoground")
    assert (found.kind, found.metric, found.count) == ("Compositionality", "accuracy", 2)


def test_sounds_and_texts_are_embedded_as_by_hand(hearing: GritLM):
    encoder = mteb_encoder(hearing)
    sounds = [sound(seed) for seed in range(3)]
    options: dict[str, Any] = {
        "task_metadata": mteb.get_task("ClothoA2TRetrieval").metadata,
        "hf_split": "test",
        "hf_subset": "default",
        "batch_size": 2,
    }
    vectors = encoder.encode([{"audio": sounds[:1]}, {"audio": sounds[1:]}], **options)
    each = [hearing.encode({"audio": one}, instruction=gritlm_instruction()) for one in sounds]
    assert vectors == pytest.approx(np.array(each), abs=1e-5)
    assert "audio" in encoder.mteb_model_meta.modalities


def test_a_model_tells_mteb_what_it_reads(seeing: GritLM):
    assert mteb_encoder(seeing).mteb_model_meta.modalities == ["text", "image"]


def test_a_task_that_the_model_does_not_read_is_refused(seeing: GritLM):
    with pytest.raises(InputError, match="reads text and images; the task has text and sound"):
        mteb_run.measure(seeing, "ClothoA2TRetrieval")


def test_a_batch_becomes_inputs_of_the_model():
    both = batches.inputs_of({"text": ["a", " "], "image": PICTURES[:2], "label": [1, 2]})
    assert both == [{"image": PICTURES[0], "text": "a"}, {"image": PICTURES[1]}]
    assert batches.inputs_of({"text": ["a", " "]}) == ["a", batches.BLANK]
    with pytest.raises(InputError, match=r"the columns \['label'\]; expected text, image or audio"):
        batches.inputs_of({"label": [1]})
    with pytest.raises(InputError, match="videos, which are not read"):
        batches.inputs_of({"video": [1], "text": ["a"]})


def test_texts_stay_together_and_images_are_in_groups():
    texts = [{"text": ["a", "b"]}, {"text": ["c"]}]
    assert list(batches.groups(texts, 1)) == [["a", "b", "c"]]
    pictures = [{"image": [picture]} for picture in PICTURES[:3]]
    assert [len(group) for group in batches.groups(pictures, 2)] == [2, 1]
