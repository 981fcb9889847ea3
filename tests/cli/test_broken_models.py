"""Commands with a damaged model: exit code 2 and one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

DAMAGES: dict[str, tuple[str, str, Any]] = {
    "a size of zero": ("config.json", "num_attention_heads", 0),
    "a size that is text": ("config.json", "hidden_size", "x"),
    "a tokenizer without a model": ("tokenizer.json", "model", 3),
    "a length that is text": ("tokenizer_config.json", "model_max_length", "x"),
    "an end token that is no id": ("generation_config.json", "eos_token_id", {}),
}
ROW = {"query": "a", "pos": ["b"], "neg": ["c"]}


@pytest.mark.parametrize(("file", "key", "value"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_model_ends_a_command_with_one_line(
    run: Any, model_folder: Path, tmp_path: Path, file: str, key: str, value: Any
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(content | {key: value}), encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    model = ["--model", str(folder)]
    commands = [["generate", "hi", *model], ["info", *model]]
    if file != "generation_config.json":  # these read no weights, or need no end token
        commands += [["embed", "hi", *model], ["data", "check", str(rows), *model]]
    for words in commands:
        result = run(*words)
        assert result.exit_code == 2, (words, result.output)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, (words, lines)
        assert str(folder) in lines[0]
