"""Screenshots of the page: their questions are answered right, and documents show their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from docs.screenshots import make, pictures, scenes
from docs.screenshots.questions import Question, digest, guide, questions
from docs.screenshots.server import running_server, upload
from docs.screenshots.visitor import LayoutError, WrongAnswerError, check, check_width
from docs.screenshots.walk import MOST_BYTES, WALKS
from PIL import Image

from gritlm.rag.quote import sentence_spans
from tests.browser import chromium
from tests.serve.visiting import serving

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("**/*.md")]
RECORD = pictures.record()
# As the page asks them.
CHAT = {"model": "gritlm", "temperature": 0, "max_completion_tokens": 512}
IDEAS = ("chat", "idea-sleep", "idea-water")
CACHED = {"mode": "doc", "fusion": "sequence"}
FRESH = {"mode": "none", "fusion": "joint"}
LENGTH = {"top_k": 5, "temperature": 0, "max_tokens": 96}


@pytest.fixture(scope="module")
def client(
    default_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """The server of the screenshots: `gritlm serve` with the default model."""
    with running_server(tmp_path_factory.mktemp("server")) as address:
        upload(address, guide().name, guide().pdf())
        with httpx.Client(base_url=address, timeout=120) as http:
            yield http


def post(client: httpx.Client, path: str, **body: object) -> dict:
    return client.post(path, json=body).raise_for_status().json()


def chat(client: httpx.Client, messages: list[dict[str, str]], **more: object) -> str:
    answer = post(client, "/v1/chat/completions", messages=messages, **CHAT, **more)
    return answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", IDEAS)
def test_an_idea_of_the_chat_is_answered_with_its_facts(client, name):
    question = questions()[name]
    check(question, chat(client, [{"role": "user", "content": question.text}]))


def test_the_ideas_of_the_chat_are_questions_whose_answers_are_checked():
    page = (pictures.PAGE / "index.html").read_text(encoding="utf-8")
    (ideas,) = re.findall(r'id="chat-ideas">(.*?)</div>', page, flags=re.DOTALL)
    assert re.findall(r">([^<>]+)</button>", ideas) == [questions()[name].text for name in IDEAS]


def test_the_chat_answers_from_the_document(client):
    """The page sends this question alone, since it does not refer to the one before."""
    question = questions()["chat-documents"]
    messages = [{"role": "user", "content": question.text}]
    check(question, chat(client, messages, rag={"top_k": 5}))


@pytest.mark.parametrize("name", ["chat-documents", "ask", "ask-guide"])
def test_a_question_is_answered_from_its_document_and_the_sentence_is_quoted(client, name):
    question = questions()[name]
    answer = post(client, "/v1/rag/answer", question=question.text, **CACHED, **LENGTH)
    check(question, answer["answer"])
    (used,) = (source for source in answer["sources"] if source["used"])
    assert used["document_id"] == question.document
    assert answer["trace"]["supported"] is not False
    assert quoted(client, question, used) == question.quote


@pytest.mark.parametrize("name", ["ask", "ask-guide"])
def test_the_fresh_answer_next_to_the_cached_one_is_right_too(client, name):
    question = questions()[name]
    answer = post(client, "/v1/rag/answer", question=question.text, **FRESH, **LENGTH)
    check(question, answer["answer"])


def quoted(client: httpx.Client, question: Question, source: dict) -> str:
    """The sentence of a passage that the server ranks first, as the page asks for it."""
    text = source["text"]
    sentences = [" ".join(text[start:end].split()) for start, end in sentence_spans(text)]
    documents = [f"{source['title']} {sentence}".strip() for sentence in sentences]
    ranked = post(client, "/v1/rerank", query=question.text, documents=documents, top_n=1)
    return sentences[ranked["results"][0]["index"]]


def test_the_search_finds_its_passage_first(client):
    question = questions()["search"]
    first, *_ = post(client, "/v1/rag/search", question=question.text, top_k=5)["data"]
    assert first["document_id"] == question.document
    check(question, first["text"])


def test_a_fact_is_whole_words_in_any_case_and_each_group_counts():
    question = Question("q", "?", [["two cups", "2 cups"], ["day"]])
    assert question.missing("Two cups a DAY.") == []
    assert question.missing("12 cups a week") == ["two cups or 2 cups", "day"]


def test_no_picture_of_a_wrong_answer_is_written(tmp_path, monkeypatch):
    """A tiny model answers with random words."""
    monkeypatch.setattr(pictures, "FOLDER", tmp_path / "images")
    (tmp_path / "images").mkdir()
    with (
        serving(tmp_path, store=True) as address,
        chromium() as browser,
        pytest.raises(WrongAnswerError, match="photosynthesis"),
    ):
        scenes.take(browser, address, "page-chat.png")
    assert list((tmp_path / "images").iterdir()) == []


def test_a_page_that_is_wider_than_the_screen_is_refused():
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_content("<p style='width: 300px'>narrow</p>")
        check_width(page, scenes.PHONE)
        page.set_content("<p style='width: 700px'>wide</p>")
        with pytest.raises(LayoutError, match=r"7\d\d pixels wide, the screen 390"):
            check_width(page, scenes.PHONE)


def test_a_name_that_no_picture_has_is_refused(capsys):
    assert make.main(["page-asks.png"]) == 2
    message = capsys.readouterr().err
    assert "no picture is named page-asks.png; the names are page-search.png, " in message


def test_the_check_lists_the_pictures_that_show_an_older_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "RECORD", tmp_path / "record.json")
    pictures.note("page-ask.png", "questions")
    assert make.main(["--check"]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "web" / "static").mkdir(parents=True)
    (tmp_path / "web" / "index.html").write_text("<p>another page</p>")
    monkeypatch.setattr(pictures, "PAGE", tmp_path / "web")
    assert make.main(["--check"]) == 0
    assert capsys.readouterr().err.startswith("page-ask.png shows an older form of the page")


def test_the_pictures_show_the_present_questions():
    """If not: make screenshots."""
    assert set(RECORD) == {*scenes.PICTURES, *WALKS}
    assert {made["questions"] for made in RECORD.values()} == {digest()}


@pytest.mark.parametrize("name", sorted(scenes.PICTURES))
def test_a_picture_is_small_and_has_the_size_of_its_screen(name):
    path = pictures.FOLDER / name
    assert path.stat().st_size <= pictures.MOST_BYTES
    with Image.open(path) as picture:
        assert picture.size == scenes.size(name)


@pytest.mark.parametrize("name", sorted(WALKS))
def test_a_moving_picture_is_small_and_shows_the_steps(name):
    path = pictures.FOLDER / name
    assert path.stat().st_size <= MOST_BYTES
    with Image.open(path) as film:
        assert film.size == WALKS[name].pixels
        assert film.n_frames >= 10


def test_every_picture_is_shown_and_every_picture_shown_exists():
    link = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)")
    shown = set()
    for path in DOCUMENTS:
        for alternative, target in link.findall(path.read_text(encoding="utf-8")):
            assert (path.parent / target).is_file(), f"{path.name} shows {target}"
            assert alternative.strip(), f"{path.name} shows {target} without a text for readers"
            shown.add((path.parent / target).resolve())
    unused = [n for n in RECORD if (pictures.FOLDER / n).resolve() not in shown]
    assert not unused
