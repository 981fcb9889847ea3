"""A saved folder gives the same vectors in sentence-transformers and mteb, or stops them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import processors
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from gritlm import GritLM
from gritlm.lm.attention import views
from gritlm.lm.hub import export_tokenizer
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.hub.quiet import quiet
from tests import tiny

TEXTS = [
    "The quick brown fox",
    "  begins with spaces",
    "\nbegins with a newline",
    "a <s> special </s> token <pad> inside",
    "Ann has a red ball, Bob has a blue car. " * 30,
    "<|embed|>\nmarkers in the text",
    "a",
]
QUESTION = "Find the page that answers the question"


def saved(folder: Path, source: Path, **options: Any) -> tuple[GritLM, Path]:
    """The model as it is loaded from the folder that it was saved to, and that folder."""
    GritLM(source, device="cpu", dtype="float32", **options).save_pretrained(folder)
    return GritLM(folder, device="cpu", dtype="float32"), folder


def elsewhere(folder: Path) -> SentenceTransformer:
    with quiet():
        return SentenceTransformer(str(folder), device="cpu")


def lowest_cosine(one: Any, other: Any) -> float:
    unit = [np.asarray(v, dtype=np.float64) for v in (one, other)]
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in unit]
    return float((unit[0] * unit[1]).sum(axis=-1).min())


def assert_alike(model: GritLM, folder: Path, texts: list[str] = TEXTS) -> None:
    other = elsewhere(folder)
    pairs = {
        "encode": (model.encode(texts), other.encode(texts)),
        "encode_query": (model.encode_query(texts), other.encode_query(texts)),
        "encode_document": (model.encode_document(texts), other.encode_document(texts)),
        "query": (model.encode_query(texts), other.encode(texts, prompt_name="query")),
        "alone": (model.encode_query(texts), [other.encode_query(text) for text in texts]),
        "small batches": (model.encode(texts), other.encode(texts, batch_size=2)),
    }
    for name, (ours, theirs) in pairs.items():
        assert lowest_cosine(ours, theirs) >= 0.9999, name


@pytest.fixture
def spaced(base: Path) -> Path:
    """A checkpoint whose tokenizer merges newlines and spaces, as those of real models do."""
    runs = ["one\n\ntwo", "one\n two", "one\n  two\n\n three", "one   two"] * 9
    tiny.tokenizer([*tiny.SENTENCES, *runs]).save_pretrained(base)
    return base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny checkpoint with a query instruction, which cuts texts at 60 tokens."""
    folder = tiny.folder(tmp_path / "base")
    ModelSettings(query_instruction=QUESTION, max_length=60).save(folder)
    return folder


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_gives_the_same_vectors_in_sentence_transformers(family, tiny_model, tmp_path):
    assert_alike(*saved(tmp_path / "out", tiny_model(family)))


@pytest.mark.parametrize(
    "options",
    [
        {"pooling_method": "lasttoken"},
        {"pooling_method": "cls"},
        {"normalized": False},
        {"projection": 16},
        {"projection": 16, "normalized": False, "pooling_method": "cls"},
        {"attn": "cccc", "pooling_method": "lasttoken"},
    ],
    ids=str,
)
def test_every_kind_of_vector_is_the_same_in_sentence_transformers(options, base, tmp_path):
    model, folder = saved(tmp_path / "out", base, **options)
    assert_alike(model, folder)
    if not options.get("normalized", True):
        assert np.allclose(model.encode(TEXTS), elsewhere(folder).encode(TEXTS), atol=1e-4)


def test_prompts_and_the_longest_text_are_those_of_the_model(base, tmp_path):
    model, folder = saved(tmp_path / "out", base)
    other = elsewhere(folder)
    assert other.max_seq_length == model.max_length == 60
    assert other.prompts == {
        "query": f"<|user|>\n{QUESTION}\n<|embed|>\n",
        "document": "<|embed|>\n",
    }
    assert other.similarity_fn_name == "cosine"
    assert_alike(model, folder)


@pytest.mark.parametrize("template", ["$A", "<s> $A </s>"])
def test_tokenizers_without_bos_and_with_eos_are_read_alike(template, base, tmp_path):
    tokenizer = tiny.tokenizer()
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    tokenizer.save_pretrained(base)
    assert_alike(*saved(tmp_path / "out", base))


def test_a_bfloat16_folder_with_a_projection_loads_and_is_close(base, tmp_path):
    model = GritLM(base, device="cpu", dtype="bfloat16", projection=16)
    model.save_pretrained(tmp_path / "out")
    other = elsewhere(tmp_path / "out")
    assert lowest_cosine(model.encode_query(TEXTS), other.encode_query(TEXTS)) >= 0.9995


def test_saving_changes_no_vector_and_no_token_of_the_model_itself(spaced, tmp_path):
    before = GritLM(spaced, device="cpu", dtype="float32")
    after, _ = saved(tmp_path / "out", spaced)
    assert np.array_equal(before.encode_query(TEXTS), after.encode_query(TEXTS))
    assert before.chat_ids("  Hello <s> you\n") == after.chat_ids("  Hello <s> you\n")
    for text in ("Hello\n\n  you", "<|user|>\nHello\n<|assistant|>\n"):
        assert before.tokenizer(text)["input_ids"] == after.tokenizer(text)["input_ids"]
    assert after.lm.config.to_dict().get("is_causal") is None


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_plain_transformers_writes_causally_and_embeds_on_request(family, tiny_model, tmp_path):
    base = tiny_model(family)
    model, folder = saved(tmp_path / "out", base)
    assert json.loads((folder / "config.json").read_text())["is_causal"] is True
    ids = torch.randint(3, 399, (2, 7))
    with torch.inference_mode(), quiet():
        before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
        after = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        both = AutoModel.from_pretrained(folder, is_causal=False, dtype=torch.float32)
        states = both(ids).last_hidden_state
    assert torch.equal(before, after)
    assert (states - model.lm.hidden(ids, causal=False)).abs().max() < 1e-4


def test_whitespace_behind_the_header_is_read_alike(spaced, tmp_path):
    model, folder = saved(tmp_path / "out", spaced)
    assert_alike(model, folder, [*TEXTS, "\n\n two", "   two", "\ttwo"])


def test_the_comparison_sees_wrong_pooling_and_wrong_whitespace(spaced, tmp_path):
    model, folder = saved(tmp_path / "out", spaced)
    other = elsewhere(folder)
    texts = ["fox", "  two"]
    assert lowest_cosine(model.encode(texts), model.encode_document(texts)) < 0.99
    other[1].include_prompt = True
    assert lowest_cosine(model.encode_query(texts), other.encode_query(texts)) < 0.99
    other = elsewhere(folder)
    other[0].processor = AutoTokenizer.from_pretrained(spaced)
    theirs = other.encode_document(texts[1:])
    assert lowest_cosine(model.encode_document(texts[1:]), theirs) < 0.999


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pooling_method": "weightedmean"}, "weightedmean"),
    ({"embed_eos": "</s>"}, "embed_eos='</s>'"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=["weightedmean", "embed_eos"])
def test_what_sentence_transformers_cannot_compute_stops_it(options, said, base, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        model, folder = saved(tmp_path / "out", base, **options)
    assert said in caplog.text
    with pytest.raises(ImportError, match=said):
        elsewhere(folder)
    assert np.isfinite(model.encode(TEXTS)).all()


def causal_regardless(decoder: Any, changes: dict[str, Any]) -> Any:
    return views.shell(decoder)


def test_a_model_that_ignores_is_causal_is_refused(base, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(views, "configured", causal_regardless)
    _, folder = saved(tmp_path / "out", base)
    assert "LlamaForCausalLM" in caplog.text
    with pytest.raises(ImportError, match="does not read LlamaForCausalLM bidirectionally"):
        elsewhere(folder)


def test_a_tokenizer_that_reads_whole_strings_otherwise_is_refused(base, tmp_path, monkeypatch):
    monkeypatch.setattr(export_tokenizer, "_differing", lambda *_: ["a"])
    tokenizer = (base / "tokenizer.json").read_bytes()
    _, folder = saved(tmp_path / "out", base)
    with pytest.raises(ImportError, match="'a' in one string with other ids"):
        elsewhere(folder)
    assert json.loads((folder / "tokenizer.json").read_bytes()) == json.loads(tokenizer)


def test_only_whitespace_that_is_read_otherwise_is_a_warning(spaced, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export_tokenizer, "_is_mended", lambda *_: False)
    _, folder = saved(tmp_path / "out", spaced)
    assert "texts that begin with whitespace" in caplog.text
    elsewhere(folder)


def test_saving_over_another_kind_of_folder_replaces_it(base, tmp_path):
    saved(tmp_path / "out", base, projection=16)
    assert_alike(*saved(tmp_path / "out", base, pooling_method="lasttoken"))


def test_mteb_computes_the_vectors_of_each_side(base, tmp_path):
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.types import PromptType

    model, folder = saved(tmp_path / "out", base)
    measured = SentenceTransformerEncoderWrapper(str(folder), device="cpu")
    for side, encode in (
        (PromptType.query, model.encode_query),
        (PromptType.document, model.encode_document),
        (None, model.encode),
    ):
        assert lowest_cosine(encode(TEXTS), seen_by_mteb(measured, side)) >= 0.9999, side


def seen_by_mteb(measured: Any, side: Any) -> Any:
    import datasets
    import mteb
    from torch.utils.data import DataLoader

    rows: Callable[..., Any] = datasets.Dataset.from_dict
    loader = DataLoader(rows({"text": TEXTS}), batch_size=4)
    task = mteb.get_task("SciFact").metadata
    return measured.encode(
        loader,
        task_metadata=task,
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
        show_progress_bar=False,
    )


def test_the_default_model_gives_the_same_vectors_elsewhere(default_folder, tmp_path):
    model = GritLM(device="cpu", dtype="float32")
    model.save_pretrained(tmp_path / "out")
    other, texts = elsewhere(tmp_path / "out"), ["The quick brown fox", "\n\n  1 fox", "  fox"]
    assert lowest_cosine(model.encode_query(texts), other.encode_query(texts)) >= 0.9999
    assert lowest_cosine(model.encode_document(texts), other.encode_document(texts)) >= 0.9999
