"""Adapters over one base in one server: each a model of its own, chosen by name, all together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.rag import RagEngine
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.server import running
from gritlm.serve.stores import StoreAt
from tests.serve.conftest import TEXTS, Served, served

OPTIONS = {"dtype": "float32", "device": "cpu"}
QUESTIONS = ["Who has a red ball?", "When does water boil?", "What do cats do?"]
TOKENS = 24


@pytest.fixture(scope="module")
def two(
    make_adapter: Callable[..., Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    law = make_adapter(folder, tmp_path_factory.mktemp("law"))
    medicine = make_adapter(folder, tmp_path_factory.mktemp("medicine"), r=2, lora_alpha=6)
    return {"law": str(law), "medicine": str(medicine)}


@pytest.fixture(scope="module")
def alone(folder: Path, two: dict[str, str]) -> dict[str, GritLM]:
    """Each model of the server alone in memory, with its adapter merged."""
    models = {name: GritLM(folder, adapter=path, **OPTIONS) for name, path in two.items()}
    return {"tiny": GritLM(folder, **OPTIONS), **models}


@pytest.fixture(scope="module")
def shared(folder: Path, two: dict[str, str]) -> GritLM:
    return GritLM(folder, adapters=two, **OPTIONS)


@pytest.fixture(scope="module")
def stores(
    alone: dict[str, GritLM], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StoreAt]:
    """A store of the base and one of an adapter, which their merged models made."""
    found = {}
    for name, maker in (("notes", "tiny"), ("cases", "law")):
        place = tmp_path_factory.mktemp(name) / "store"
        with RagEngine.open(place, alone[maker], longest=512) as engine:
            engine.add([{"id": key, "text": text} for key, text in TEXTS.items()])
        found[name] = StoreAt(place, name=name)
    return found


@pytest.fixture(scope="module")
def live(shared: GritLM, stores: dict[str, StoreAt]) -> Iterator[Served]:
    settings = ServerConfig(port=0, names=("tiny",))
    with served(shared, settings, Limits(max_num_seqs=6), *stores.values()) as found:
        yield found


def chat(client: openai.OpenAI, model: str, question: str) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=TOKENS,
    )


def test_chats_of_several_adapters_at_a_time_are_those_of_each_alone(live, alone):
    found: dict[tuple[str, str], str] = {}
    errors: list[BaseException] = []

    def ask(model: str, question: str) -> None:
        try:
            answer = chat(live.openai, model, question)
            assert answer.model == model
            found[model, question] = answer.choices[0].message.content
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=ask, args=(model, question))
        for question in QUESTIONS
        for model in alone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for (model, question), text in found.items():
        assert text == alone[model].chat(question, max_new_tokens=TOKENS), (model, question)
    assert len({text for (_, question), text in found.items() if question == QUESTIONS[0]}) == 3


def test_vectors_are_those_of_the_adapter(live, alone):
    texts = list(TEXTS.values())
    for name, model in alone.items():
        answer = live.openai.embeddings.create(model=name, input=texts, encoding_format="float")
        assert answer.model == name
        vectors = np.array([each.embedding for each in answer.data])
        assert np.abs(vectors - model.encode_document(texts)).max() < 1e-5


def test_the_list_of_models_has_the_adapters_with_their_parent(live):
    listed = {each["id"]: each for each in live.http.get("/v1/models").json()["data"]}
    names = ["tiny", "law", "medicine", "tiny:rag", "tiny:rag:notes", "law:rag", "law:rag:cases"]
    assert sorted(set(listed) - set(names)) == []
    parents = {name: listed[name]["parent"] for name in ("tiny", "law", "medicine", "law:rag")}
    assert parents == {"tiny": None, "law": "tiny", "medicine": "tiny", "law:rag": "tiny"}
    assert [listed[name]["documents"] for name in ("tiny", "law", "medicine")] == [
        True,
        True,
        False,
    ]
    assert live.http.get("/v1/models/law").json()["parent"] == "tiny"
    assert live.http.get("/v1/models/medicine:rag").status_code == 404


def test_an_unknown_adapter_is_refused_with_the_names_that_exist(live):
    with pytest.raises(
        openai.NotFoundError, match="'tax' does not exist; this server has tiny, law"
    ):
        chat(live.openai, "tax", "Hello")


def test_a_slot_of_one_adapter_is_not_reused_by_another(shared):
    question = "A model that reads, searches and writes with one set of weights. " * 3
    with served(shared, ServerConfig(port=0, names=("tiny",)), Limits(max_num_seqs=4)) as fresh:

        def cached(model: str) -> int:
            usage = chat(fresh.openai, model, question).usage
            return usage.prompt_tokens_details.cached_tokens

        assert [cached("law"), cached("medicine"), cached("tiny")] == [0, 0, 0]
        assert all(cached(model) > 20 for model in ("law", "medicine", "tiny"))


def test_other_routes_take_the_adapter_too(live, alone):
    law = alone["law"]
    prompt = "Water boils at"
    text = live.openai.completions.create(
        model="law", prompt=prompt, max_tokens=8, temperature=0, logprobs=1
    )
    other = live.openai.completions.create(
        model="tiny", prompt=prompt, max_tokens=8, temperature=0, logprobs=1
    )
    assert text.choices[0].logprobs.token_logprobs != other.choices[0].logprobs.token_logprobs
    body = {"query": QUESTIONS[1], "documents": list(TEXTS.values())}
    for method in ("embed", "generate", "likelihood"):
        scores = {}
        for name in ("tiny", "law"):
            answer = live.http.post("/v1/rerank", json=body | {"model": name, "method": method})
            assert answer.json()["model"] == name
            found = answer.json()["results"]
            scores[name] = [
                one["relevance_score"] for one in sorted(found, key=lambda x: x["index"])
            ]
        assert not np.allclose(scores["tiny"], scores["law"], atol=1e-4)
        if method == "embed":
            queries = law.encode_query([QUESTIONS[1]])
            expected = law.similarity(queries, law.encode_document(list(TEXTS.values())))[0]
            assert np.allclose(scores["law"], expected.numpy(), atol=1e-5)


def test_a_format_is_followed_with_an_adapter(live):
    answer = live.openai.chat.completions.create(
        model="law",
        messages=[{"role": "user", "content": "Hello"}],
        extra_body={"guided_choice": ["yes", "no"]},
    )
    assert answer.choices[0].message.content in ("yes", "no")


def test_each_store_is_served_by_the_adapter_that_made_it(live, alone, stores):
    listed = {each["id"]: each["model"] for each in live.http.get("/v1/rag/stores").json()["data"]}
    assert listed == {"notes": "tiny", "cases": "law"}
    for store, maker in listed.items():
        body = {"question": QUESTIONS[1], "store": store, "max_tokens": 8, "top_k": 1}
        answer = live.http.post("/v1/rag/answer", json=body).json()
        assert answer["model"] == maker
        by_name = chat(live.openai, f"{maker}:rag", QUESTIONS[1])
        assert by_name.model == f"{maker}:rag"
        assert by_name.choices[0].message.content.startswith(answer["answer"])
        with RagEngine.open(
            stores[store].folder, alone[maker], read_only=True, longest=512
        ) as engine:
            expected = engine.answer(QUESTIONS[1], max_new_tokens=8, top_k=1)
        assert answer["answer"] == expected.text
        assert answer["trace"]["tokens_reused"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rag/answer", {"question": "Why?", "store": "cases", "model": "tiny"}),
        ("/v1/rag/search", {"question": "Why?", "store": "notes", "model": "law"}),
        ("/v1/rag/answer", {"question": "Why?", "model": "medicine"}),
    ],
    ids=["answer", "search", "no store of the model"],
)
def test_a_store_of_another_adapter_is_refused(live, path, body):
    answer = live.http.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("model", "other_model")
    assert (
        f"the model '{body['model']}' cannot read the documents of another model"
        in error["message"]
    )
    assert "'cases' to 'law'" in error["message"] or "'notes' to 'tiny'" in error["message"]


def test_a_store_that_no_adapter_made_is_refused_with_the_command_that_indexes(
    folder, two, stores, shared
):
    other = GritLM(folder, adapters={"medicine": two["medicine"]}, **OPTIONS)
    place = stores["cases"].folder
    command = f"gritlm index DOCUMENTS --to {place}-new --model {folder}"
    expected = rf"store 'cases': .*was made by .*law.*To index .* for this model: {command}"
    with (
        pytest.raises(InputError, match=expected) as refused,
        running(other, ServerConfig(), Limits(), [StoreAt(place, True, "cases")]),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_new_store_belongs_to_the_adapter_of_its_name(shared, tmp_path):
    places = [StoreAt(tmp_path / name, name=name) for name in ("law", "other")]
    with served(shared, ServerConfig(port=0, names=("tiny",)), None, *places) as found:
        for name, model in (("law", "law"), ("other", "tiny")):
            body = {"store": name, "documents": [{"id": "water", "text": TEXTS["water"]}]}
            found.http.post("/v1/rag/documents", json=body).raise_for_status()
            answer = found.http.post("/v1/rag/search", json={"question": "Water?", "store": name})
            assert answer.json()["model"] == model


def test_an_adapter_for_embeddings_leaves_the_chats_of_the_server_as_they_are(
    folder, two, alone, tmp_path
):
    model = GritLM(folder, embed_adapter=two["law"], **OPTIONS)
    store = StoreAt(tmp_path / "store")
    with served(model, ServerConfig(port=0, names=("tiny",)), None, store) as found:
        for question in QUESTIONS:
            text = chat(found.openai, "tiny", question).choices[0].message.content
            assert text == alone["tiny"].chat(question, max_new_tokens=TOKENS)
        texts = list(TEXTS.values())
        answer = found.openai.embeddings.create(model="tiny", input=texts, encoding_format="float")
        vectors = np.array([each.embedding for each in answer.data])
        assert np.abs(vectors - alone["law"].encode_document(texts)).max() < 1e-5
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        found.http.post("/v1/rag/documents", json={"documents": documents}).raise_for_status()
        body = {"question": QUESTIONS[1], "max_tokens": 8, "top_k": 1}
        answered = found.http.post("/v1/rag/answer", json=body).json()
        assert answered["trace"]["tokens_reused"] > 0
        refused = found.http.post("/v1/rag/answer", json=body | {"blocks": "bidirectional"})
        assert refused.status_code == 400
        assert "use blocks='causal'" in refused.json()["error"]["message"]
        reranked = {"query": QUESTIONS[1], "documents": texts, "method": "likelihood"}
        assert found.http.post("/v1/rerank", json=reranked).status_code == 200


def test_an_adapter_with_the_name_of_the_model_is_refused(folder, two):
    model = GritLM(folder, adapters={"tiny": two["law"]}, **OPTIONS)
    with (
        pytest.raises(InputError, match="the adapter 'tiny' has the name of the model itself"),
        running(model, ServerConfig(names=("tiny",)), Limits()),
    ):
        pass
