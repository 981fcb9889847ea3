"""Chinese, Japanese and Korean: passages, search by words, filters, and quoted sentences."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.rag import chinese_words

from gritlm.rag.index import lance_table
from gritlm.rag.index import table as table_module
from gritlm.rag.index.index import Index
from gritlm.rag.index.passage_table import Wanted
from gritlm.rag.index.ranking import TableQuery
from gritlm.rag.index.repair import rebuild
from gritlm.rag.index.table import character_pairs
from gritlm.rag.ingest.chunking import cut
from gritlm.rag.quote import sentence_spans
from gritlm.rag.types import Document, Passage
from tests.rag.test_index import MAKER, passage, put, vectors

TEXTS = {
    "library": "图书馆周一至周六上午九点开门，晚上九点关门。星期天闭馆。",
    "cache": "缓存键值状态可以减少预填充的计算量；检索增强生成（RAG）先检索段落。",
    "train": "如何用Qwen3-0.6B微调中文检索模型？",
    "wide": "ＧＰＵ和全角字符ＡＢＣ１２３",
    "traditional": "圖書館星期天不開放",
    "tower": "東京タワーの高さは333メートルです。",
    "korean": "도서관은 일요일에 문을 닫습니다.",
    "pdf": "模型从缓\n存状态回答",
    "english": "The library opens at nine.",
}


def rows(name: str, text: str, **others: str) -> list[tuple[Passage, np.ndarray]]:
    return [(passage(name, 0, text, **others), vectors(1, seed=len(text))[0])]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.open(tmp_path / "index", MAKER)
    put(made, *(rows(name, text, lang=name[:2]) for name, text in TEXTS.items()))
    return made


def found(index: Index, words: str, count: int = 5) -> list[str]:
    query = TableQuery(index.table, vectors(1)[0], Wanted(), exact=True)
    return [each.document_id for _, each in query.worded(words, count)]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("图书馆", "library"),
        ("图书馆星期天开门吗？", "library"),
        ("键值状态", "cache"),
        ("预填充", "cache"),
        ("rag", "cache"),
        ("微调", "train"),
        ("Qwen3", "train"),
        ("GPU", "wide"),
        ("abc123", "wide"),
        ("全角", "wide"),  # the dictionary splits the text into 和全 and 角
        ("圖書", "traditional"),  # a part of the dictionary's word 圖書館
        ("東京タワー", "tower"),
        ("タワ", "tower"),
        ("도서관", "korean"),  # the word has a particle in the text
        ("도서관에서", "korean"),
        ("library", "english"),
    ],
)
def test_words_are_found_without_spaces_between_them(index, words, first):
    assert found(index, words)[0] == first
    index.optimise()
    assert found(index, words)[0] == first


def test_a_word_that_no_text_has_is_not_found_by_its_characters(index):
    assert found(index, "闭关") == []


def test_a_word_that_a_line_end_divides_is_found(index):
    assert {*found(index, "缓存")} == {"pdf", "cache"}


def test_hybrid_search_and_filters_work_with_chinese(index):
    far = vectors(1, seed=77)[0]
    put(index, [(passage("远", 0, "国家图书馆的古籍", 类别="历史"), -far)])
    put(index, [(passage("近", 0, "天气很好", 类别="自然"), far)])
    hybrid = index.search(far, top_k=3, text="古籍在哪里", hybrid=True)
    assert {"远", "近"} <= {hit.passage.document_id for hit in hybrid}
    (only,) = index.search(far, top_k=3, where={"类别": "历史"})
    assert only.passage.document_id == "远"
    (only,) = index.search(far, top_k=3, text="天气", hybrid=True, where={"类别": ["历史"]})
    assert only.passage.text == "国家图书馆的古籍"


def test_an_index_made_before_the_pairs_is_searched_and_gets_them_by_rebuild(
    tmp_path, monkeypatch, caplog
):
    place = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(table_module, "with_pairs_field", lambda found: found)
        old = Index.open(place, MAKER)
        put(old, rows("wide", TEXTS["wide"]), rows("library", TEXTS["library"]))
    old = Index.open(place, MAKER)
    assert "pairs" not in old.table.lance.schema.names
    put(old, rows("train", TEXTS["train"]))
    found(old, "library hours")
    assert caplog.messages == []
    assert found(old, "图书馆") == ["library"]
    assert found(old, "微调") == ["train"]
    assert found(old, "全角") == []
    (line,) = caplog.messages
    assert line.startswith(f"the index {place} has no pairs of characters")
    assert line.endswith("run: gritlm store rebuild STORE")
    rebuild(str(place), lambda passages: vectors(len(passages)))
    new = Index.open(place, MAKER)
    assert isinstance(new.table, lance_table.LanceTable)
    assert found(new, "全角") == ["wide"]
    assert not any("pairs of characters" in each for each in caplog.messages[1:])
    put(new, rows("more", "半角与全角"))
    assert {*found(new, "全角")} == {"wide", "more"}


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("图书馆", "图书 书馆"),
        ("茶", "茶"),
        ("用Qwen3微调，好", "用 微调 好"),
        ("ﾀﾜｰ", "タワ ワー"),
        ("도서관은 문", "도서 서관 관은 문"),
        ("第一\n 行", "第一 一行"),
        ("第一\n\n二", "第一 二"),
        ("English, no pairs: 42 😀", ""),
    ],
)
def test_pairs_are_those_of_words_without_spaces(text, pairs):
    assert character_pairs(text) == pairs


def letters(texts: list[str]) -> list[int]:
    """Count a token for each character, and two special ones."""
    return [len(text) + 2 for text in texts]


SENTENCES = [
    "第一，天空是蓝色的。",
    "你看到了吗？",
    "他说：“快来看！”",
    "雨停了；",
    "风也停了……",
    "「もう行くよ。」",
    "テストは終わりましたか？",
    "😀真好！",
]


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("limit", [20, 25, 32])
def test_passages_end_where_sentences_end(limit, markdown):
    text = "".join(SENTENCES * 3)
    document = Document("d", text, "", markdown=markdown)
    passages = cut(document, tokens=letters, max_tokens=limit)
    assert "".join(each.text for each in passages) == text
    assert len(passages) > 5
    assert all(text[each.start : each.end] == each.text for each in passages)
    ends = tuple(SENTENCES)
    assert [each.text for each in passages if not each.text.endswith(ends)] == []


@pytest.mark.parametrize("end", ["；", "……", "。", "！"])
def test_passages_end_where_clauses_of_a_long_sentence_end(end):
    text = "".join(f"第{number}条说明需要仔细阅读{end}" for number in "一二三四五六七八")
    passages = cut(Document("d", text, ""), tokens=letters, max_tokens=32)
    assert "".join(each.text for each in passages) == text
    assert {each.text[-1] for each in passages} == {end[-1]}


def test_a_semicolon_or_dots_between_latin_words_do_not_divide_more_than_before():
    text = "one two three; four five six … seven eight nine ten"
    passages = cut(Document("d", text, ""), tokens=letters, max_tokens=30)
    assert [each.text for each in passages] == [
        "one two three; four five six",
        "… seven eight nine ten",
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("".join(SENTENCES), SENTENCES),
        ("雨停了；风停了……天亮了", ["雨停了；", "风停了……", "天亮了"]),
        ("她说「走吧。」然后走了。", ["她说「走吧。」", "然后走了。"]),
        ("『終わり。』と言った。次へ。", ["『終わり。』と言った。", "次へ。"]),
        ("「行く？！」と言った。次へ。", ["「行く？！」と言った。", "次へ。"]),
        ("「行く！?」って聞いた。", ["「行く！?」って聞いた。"]),
        ("「雨……」と言った。", ["「雨……」と言った。"]),
        ("（『行く。』）と言った。", ["（『行く。』）と言った。"]),
        ("行く。とても良い。って何？", ["行く。", "とても良い。", "って何？"]),
        ("本当！？とても良い。", ["本当！？", "とても良い。"]),
        ("对吗?对!好.", ["对吗?", "对!", "好."]),
        ("圆周率是3.14。用GPU吗?用。", ["圆周率是3.14。", "用GPU吗?", "用。"]),
        ("等等…… 好吧。", ["等等……", "好吧。"]),
        ("Wait… and see. 好的。Yes", ["Wait…", "and see.", "好的。", "Yes"]),
        ("列表：一；二；三。", ["列表：一；", "二；", "三。"]),
        ("한국어입니다. 문장이 둘입니다.", ["한국어입니다.", "문장이 둘입니다."]),
        ("句点がない｡次です｡", ["句点がない｡", "次です｡"]),
        ("😀好。👨\u200d👩\u200d👧家。", ["😀好。", "👨\u200d👩\u200d👧家。"]),
    ],
)
def test_sentences_end_at_full_width_punctuation(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


def test_the_benchmark_counts_the_strings_that_are_found(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"{TEXTS['library']}\n\n{TEXTS['traditional']}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["chinese_words", str(page), "--strings", "9"])
    chinese_words.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "pairs" in line]
    assert [row[5:7] for row in rows] == [[" 9 ", " 9 "]] * 3
