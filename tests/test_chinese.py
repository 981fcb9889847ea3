"""The page about Chinese does what it says, on a tiny model of the family that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gritlm import GritLM
from gritlm.cli.app import create_app
from gritlm.rag.ingest.encodings import decoded

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "chinese.md").read_text(encoding="utf-8")
NAMED = "Qwen/Qwen3-0.6B"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return found


def test_pairs_train_an_adapter_that_searches_and_leaves_the_chat(
    tiny_model, tmp_path, monkeypatch, capsys
):
    base = str(tiny_model("qwen3", max_position_embeddings=512))
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text(block("jsonl"), encoding="utf-8")
    Path("zh.toml").write_text(block("toml"), encoding="utf-8")
    assert NAMED in block("toml")
    # A batch has no row twice, and the page shows four.
    rows = "training.per_device_train_batch_size=2"
    changes = [f"model.base={base}", "training.device=cpu", rows]
    for words in (
        ["data", "check", "pairs.jsonl", "--model", base],
        ["train", "zh.toml", *(word for change in changes for word in ("--set", change))],
    ):
        result = CliRunner().invoke(create_app(), words, prog_name="gritlm")
        assert result.exit_code == 0, result.output
    namespace: dict[str, Any] = {}
    code = block("python").replace(NAMED, base)
    exec(compile(code, "chinese.md", "exec"), namespace)
    assert capsys.readouterr().out == "图书馆上午九点开门。星期天闭馆。\n"
    adapted, plain = namespace["model"], GritLM(base)
    assert adapted.settings.query_instruction == "检索能够回答问题的段落"
    message = [{"role": "user", "content": "你好"}]
    assert adapted.chat(message, max_new_tokens=4) == plain.chat(message, max_new_tokens=4)
    vectors = [model.encode_document(["图书馆"]) for model in (adapted, plain)]
    assert abs(vectors[0] - vectors[1]).max() > 1e-3


TEXTS = {
    "gb18030": "图书馆周一至周六上午九点开门，晚上九点关门。星期天闭馆，读者可以在网上续借图书。",
    "big5": "圖書館週一至週六上午九點開門，晚上九點關門。星期天閉館，讀者可以在網上續借圖書。",
    "shift_jis": "図書館は月曜日から土曜日まで午前九時に開きます。日曜日は休みです。",
    "euc_kr": "도서관은 월요일부터 토요일까지 아홉 시에 문을 엽니다. 일요일에는 쉽니다.",
    "utf-16": "图书馆上午九点开门。",
}
DECLARED = {"shift_jis", "euc_kr"}  # not detected in a short text


@pytest.mark.parametrize("encoding", TEXTS)
def test_texts_in_the_encodings_that_the_page_names_are_read(encoding):
    text = TEXTS[encoding]
    declared = encoding if encoding in DECLARED else None
    assert decoded(text.encode(encoding), declared=declared) == text
