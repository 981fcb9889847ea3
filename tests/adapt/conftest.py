"""Fixtures of the tests of adaptation: a tiny model, documents, and a writer that always writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gritlm.adapt import pipeline
from gritlm.adapt.rows import training_rows
from gritlm.adapt.rows.writers import QuestionRequest
from tests.adapt import made


@pytest.fixture(scope="session")
def model_folder(tiny_model: Callable[..., Path]) -> Path:
    """A context that a prompt with solved examples fits into."""
    return tiny_model(max_position_embeddings=1024)


@pytest.fixture(scope="session", autouse=True)
def _few_requests() -> Iterator[None]:
    """Have few general requests answered, which takes most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_rows, "REQUESTS", training_rows.REQUESTS[:6])
        yield


@pytest.fixture
def collection_folder(tmp_path: Path) -> Path:
    """A folder with the documents."""
    made.documents(tmp_path)
    return tmp_path


class Writer:
    """Writer of questions that counts its calls; ``fail_at`` interrupts one of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.texts = 0
        self.fail_at: int | None = None

    def questions(self, requests: Sequence[QuestionRequest]) -> list[str]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.texts += len(requests)
        return [
            f"Which animal: {each.opening} {re.sub(r'[.]', '', each.text)}?" for each in requests
        ]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    """The writer of all runs of a test."""
    found = Writer()
    monkeypatch.setattr(pipeline, "writer_for", lambda *_: found)
    return found
