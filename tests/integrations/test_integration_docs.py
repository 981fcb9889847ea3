"""The code of docs/integrations.md runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


def test_the_python_that_is_shown_runs(grit, client, tmp_path, monkeypatch, capsys):
    for library in ("langchain_core", "llama_index.core", "haystack"):
        pytest.importorskip(library)
    monkeypatch.setattr("gritlm.GritLM", lambda: grit)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S):
        local = code.replace("http://127.0.0.1:8000", client.base_url)
        exec(compile(local.replace('"none"', '"secret"'), PAGE.name, "exec"), namespace)
    assert "Tears clean your eyes." in capsys.readouterr().out
    namespace["store"].close()
