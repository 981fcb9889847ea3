"""Bad input, real questions, an endpoint as the writer, and the trial."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from gritlm import GritLM
from gritlm.adapt import adapt, collection, report_tasks, try_out
from gritlm.adapt.collection import HELD_OUT, TRAIN, CollectedPassage
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.pipeline import Adaptation
from gritlm.adapt.report_tasks import ReportTasks
from gritlm.adapt.rows import real_questions, writers
from gritlm.adapt.rows.real_questions import Places
from gritlm.adapt.rows.writers import EndpointError, EndpointWriter, QuestionRequest
from gritlm.adapt.run_folder import RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.errors import InputError
from gritlm.serve import ServerConfig
from tests import tiny
from tests.adapt import made
from tests.serve.conftest import served


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": ()}, "documents is empty"),
        ({"kinds": ("poem",)}, "kinds='poem' is unknown"),
        ({"kinds": ()}, "kinds is empty"),
        ({"without": ("training",)}, "without='training' is unknown"),
        ({"top_k": 0}, "top_k = 0; expected at least 1"),
        ({"steps": 0}, "steps = 0; expected at least 1"),
        ({"minutes": 0.0}, "minutes = 0.0; expected a number above 0"),
        ({"held_out": 1.0}, "held_out = 1.0; expected a share"),
        ({"margin": -1.0}, "margin = -1.0; expected a number of at least 0"),
        ({"questions_from": "http://host/v1#model"}, "expected openai:BASE_URL#MODEL"),
        ({"questions_from": "openai:http://host/v1"}, "expected openai:BASE_URL#MODEL"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        AdaptConfig(**{"documents": ("x",), "to": "y", **changes})


def test_too_few_passages_are_refused_and_nothing_is_trained(tmp_path, model_folder):
    made.documents(tmp_path, count=12)
    with pytest.raises(InputError, match=r"12 usable passages, \d of them to train on; expected"):
        adapt(made.config(tmp_path, model_folder), progress=False)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_documents_can_be_added_to_a_run_that_had_too_few(tmp_path, model_folder, writer):
    made.documents(tmp_path, count=12)
    with pytest.raises(InputError, match="add documents"):
        adapt(made.config(tmp_path, model_folder), progress=False)
    made.documents(tmp_path)
    folder = RunFolder(tmp_path / "run")
    run = Adaptation(made.config(tmp_path, model_folder), folder, lambda _: None, progress=False)
    run.begin()
    assert folder.steps()["passages"].counts["kept"] == 36


def test_passages_longer_than_the_model_takes_are_refused(collection_folder, tiny_model):
    config = made.config(collection_folder, tiny_model(), max_tokens=300)
    with pytest.raises(InputError, match="passages of 300 tokens are longer than the model takes"):
        adapt(config, progress=False)


def test_a_script_that_the_tokenizer_does_not_know_is_noted(model_folder):
    assembler = StartingModel(str(model_folder), "cpu").assembler
    assert collection.language_note(PASSAGES, assembler) is None
    greek = CollectedPassage("x", "x", "", "Η γάτα κοιμάται όλη μέρα στον κήπο.", 0)
    note = collection.language_note([greek], assembler)
    assert note is not None
    assert "hardly knows their language" in note


def test_a_prompt_without_room_has_an_empty_text(tiny_model):
    model = StartingModel(str(tiny_model()), "cpu")
    first, second = model.texts([[5] * 10, [5] * 250], until=["\n"], max_new_tokens=8)
    assert second == ""
    assert isinstance(first, str)


def test_missing_documents_and_a_foreign_folder_are_refused(collection_folder, model_folder):
    config = made.config(collection_folder, model_folder, documents=("nowhere",))
    with pytest.raises(InputError, match="'nowhere' is no file or folder"):
        adapt(config, progress=False)
    foreign = collection_folder / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        adapt(made.config(collection_folder, model_folder, to=str(foreign)), progress=False)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]


def test_an_unknown_general_task_is_refused_before_anything_is_read(
    collection_folder, model_folder
):
    with pytest.raises(InputError, match="unknown task 'Bankin77'"):
        adapt(made.config(collection_folder, model_folder, general=("Bankin77",)), progress=False)
    assert not (collection_folder / "run").exists()


def test_a_model_without_an_lm_head_is_refused(tmp_path, collection_folder):
    headless = tmp_path / "headless"
    tiny.model(max_position_embeddings=1024).model.save_pretrained(headless)
    tiny.tokenizer().save_pretrained(headless)
    config = made.config(collection_folder, headless)
    with pytest.raises(Exception, match="LM head"):
        adapt(config, progress=False)


PASSAGES = [
    CollectedPassage(f"p{n}", f"a.jsonl#{animal}", "", made.text(animal, n), 0, split)
    for n, (animal, split) in enumerate(
        [(animal, TRAIN) for animal in made.ANIMALS[:8]]
        + [(animal, HELD_OUT) for animal in made.ANIMALS[8:20]]
    )
]


def test_a_document_is_found_by_its_whole_id_and_by_that_of_its_row():
    places = Places(PASSAGES)
    assert places.of("a.jsonl#fox") == places.of("fox") == places.of("p2") == [PASSAGES[2]]
    assert places.of("newt") == []
    other = CollectedPassage("q", "b.jsonl#fox", "", "text", 0)
    assert Places([*PASSAGES, other]).of("fox") == []  # two documents end so


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "x"}', ":1: question is None; expected a text"),
        ('{"question": " "}', ":1: question is  ; expected a text|:1: question is"),
        ('{"question": "x", "document": 3}', ":1: document is 3; expected a text"),
        ("[1]", "expected one JSON object a line"),
        ("", "has no questions"),
    ],
)
def test_a_file_of_questions_names_its_bad_line(tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        real_questions.read(str(path))


def test_real_questions_get_their_passages_and_become_tasks(tmp_path, model_folder):
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "question": f"How long does the {p.document[8:]} sleep?",
            "document": p.document[8:],
            "answer": "hours",
        }
        for p in PASSAGES
    ]
    made.lines(
        path,
        [
            *rows,
            {"question": "Who knows?", "document": "gecko"},
            {"question": "Which one sleeps?"},
            {"question": "long " * 300, "document": "fox"},
        ],
    )
    model = StartingModel(str(model_folder), "cpu")
    found = real_questions.assign(real_questions.read(str(path)), PASSAGES, model)
    assert found.counts == {
        "kept": 21,
        real_questions.UNKNOWN_DOCUMENT: 1,
        real_questions.TOO_LONG: 1,
    }
    assert [row["passage"] for row in found.rows[:20]] == [passage.id for passage in PASSAGES]
    assert [row["known"] for row in found.rows] == [True] * 20 + [False]
    folder = RunFolder(tmp_path / "run")
    asked = found.rows[:20]
    tasks = ReportTasks(folder, PASSAGES, "find", limit=100)
    counts = tasks.write([], asked, model)
    assert counts == {report_tasks.REAL: 12, report_tasks.ANSWERS: 12}
    answers = made.rows(folder.path("tasks") / report_tasks.ANSWERS / "test.jsonl")
    assert {len(row["documents"]) for row in answers} == {5}
    assert all(row["documents"][0].split(" ")[1] in row["question"] for row in answers)


def test_a_question_is_judged_right_for_all_of_its_passages(tmp_path, model_folder):
    rows = [
        {
            "question": "Which animal sleeps?",
            "passage": passage.id,
            "split": passage.split,
            "kind": "factual",
            "answer": None,
        }
        for passage in PASSAGES
    ]
    rows += [{**rows[-1], "question": f"And number {n}?"} for n in range(9)]
    folder = RunFolder(tmp_path)
    tasks = ReportTasks(folder, PASSAGES, "", limit=100)
    model = StartingModel(str(model_folder), "cpu")
    assert tasks.write([], rows, model) == {report_tasks.REAL: 10}
    qrels = folder.path("tasks") / report_tasks.REAL / "qrels" / "test.tsv"
    right = [line for line in qrels.read_text().splitlines() if line.startswith("0\t")]
    assert len(right) == len(PASSAGES)


class Handler(BaseHTTPRequestHandler):
    """Endpoint that fails once, then writes a question."""

    bodies: ClassVar[list[dict]] = []
    failures = 1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        failed = len(self.bodies) <= self.failures
        message = {"role": "assistant", "content": "How long do cats sleep?"}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        data = json.dumps({"error": {"message": "no"}} if failed else answer).encode()
        self.send_response(500 if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def address() -> Iterator[str]:
    Handler.bodies.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_writes_the_questions_and_is_asked_again_after_a_failure(address):
    writer = EndpointWriter(address, "gritlm")
    requests = [QuestionRequest("Cats sleep."), QuestionRequest("Dogs walk.", "topic")]
    assert writer.questions(requests) == ["How long do cats sleep?"] * 2
    assert len(Handler.bodies) == 3
    assert {body["model"] for body in Handler.bodies} == {"gritlm"}
    assert Handler.bodies[0]["messages"][-1]["content"].startswith(("Cats sleep.", "Dogs walk."))


def test_an_endpoint_that_fails_is_named(address, monkeypatch):
    monkeypatch.setattr(writers, "RETRIES", 0)
    monkeypatch.setattr(Handler, "failures", 9)
    with pytest.raises(EndpointError, match=r"wrote no question: .*; check the address"):
        EndpointWriter(address, "gritlm").questions([QuestionRequest("Cats sleep.")])


def test_a_trial_shows_examples_and_an_estimate_and_writes_no_run(
    collection_folder, model_folder, writer
):
    config = made.config(
        collection_folder, model_folder, steps=None, kinds=("factual", "keyword", "claim")
    )
    found = try_out(config, progress=False)
    assert not Path(config.to).exists()
    assert {"passages", "questions", "filter", "negatives", "pairs", "chats"} <= {*found.examples}
    assert max(map(len, found.examples.values())) == 10
    assert found.passages["kept"] == 36
    assert found.steps >= 4
    assert found.total > found.seconds["training"] > 0


def test_the_server_of_this_package_can_be_the_endpoint(model_folder):
    model = GritLM(model_folder, dtype="float32", device="cpu")
    request = QuestionRequest("Cats sleep most of the day.")
    expected = model.chat(
        writers.messages(request), max_new_tokens=writers.MAX_NEW_TOKENS, stop=["\n"]
    )
    with served(model, ServerConfig(port=0, names=("tiny",))) as server:
        writer = EndpointWriter(f"{server.url}/v1", "tiny")
        assert writer.questions([request, request]) == [expected] * 2
