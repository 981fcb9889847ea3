"""encode: shapes, order, what surrounds a text does not change it, bad input."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError, ModeError, UnknownArgumentError
from gritlm.lm.encoder import batches
from gritlm.lm.tokens import Prompt

TEXTS = [
    "The quick brown fox",
    "Cats sleep most of the day. " * 6,
    "Water",
    "A model that reads, searches and writes with one set of weights.",
    "Ann has a red ball, Bob has a blue car. " * 3,
]
HEADER = gritlm_instruction("Find similar texts")
BOUND = 1e-5


def test_one_text_gives_a_vector_and_a_list_gives_rows(grit):
    assert grit.encode("a text").shape == (48,)
    rows = grit.encode(["a text", "another"])
    assert rows.shape == (2, 48)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_rows(grit):
    assert grit.encode([]).shape == (0, 48)
    assert grit.encode([], precision="binary").shape == (0, 6)
    assert grit.encode([], precision="int8").dtype == np.int8
    assert grit.encode([], get_cache=True)[1] == []
    assert grit.encode([], convert_to_tensor=True).shape == (0, 48)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_order_and_company_do_not_change_a_vector(grit, batch_size):
    together = grit.encode(TEXTS, instruction=HEADER, batch_size=batch_size)
    alone = np.stack([grit.encode(text, instruction=HEADER) for text in TEXTS])
    assert np.abs(together - alone).max() < BOUND


def test_batches_are_sorted_bounded_and_complete():
    prompts = [Prompt([0] * n) for n in (5, 90, 7, 40, 12, 5, 33)]
    made = list(batches(prompts, rows=3, budget=50))
    assert sorted(i for batch in made for i in batch) == list(range(7))
    assert [len(prompts[i].ids) for batch in made for i in batch] == [90, 40, 33, 12, 7, 5, 5]
    for batch in made:
        assert len(batch) <= 3
        assert len(batch) == 1 or sum(len(prompts[i].ids) for i in batch) <= 50


def test_the_instruction_is_read_but_not_averaged(grit):
    """Against the formula, by hand: mean over the text's states only."""
    tokenizer = grit.tokenizer
    head = tokenizer(HEADER)["input_ids"]
    text = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        states = grit.lm.hidden(torch.tensor([head + text]), causal=False)[0]
    by_hand = torch.nn.functional.normalize(states[len(head) :].mean(dim=0), dim=0)
    assert np.abs(grit.encode(TEXTS[0], instruction=HEADER) - by_hand.numpy()).max() < BOUND
    whole = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
    ours = grit.encode(TEXTS[0], instruction=HEADER, embed_instruction=True)
    assert np.abs(ours - whole.numpy()).max() < BOUND


def test_a_sentence_transformers_pipeline_gives_the_same_vectors(llama_folder, grit, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    folder = shutil.copytree(llama_folder, tmp_path / "bidirectional")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"is_causal": False}), encoding="utf-8")
    (folder / "chat_template.jinja").unlink()  # else the pipeline would wrap texts in it
    body = modules.Transformer(str(folder), model_kwargs={"dtype": torch.float32})
    pool = modules.Pooling(48, pooling_mode="mean", include_prompt=False)
    pipeline = st.SentenceTransformer(modules=[body, pool, modules.Normalize()], device="cpu")
    theirs = pipeline.encode(TEXTS, prompt=HEADER)
    assert np.abs(grit.encode(TEXTS, instruction=HEADER) - theirs).max() < BOUND


def test_blocks_come_one_a_text_in_order_and_without_padding(grit):
    vectors, blocks = grit.encode(TEXTS, get_cache=True, batch_size=2)
    assert np.abs(vectors - grit.encode(TEXTS)).max() < BOUND
    sizes = [len(grit.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert [block.tokens for block in blocks] == sizes
    for text, block in zip(TEXTS, blocks, strict=True):
        assert grit.tokenizer.decode(block.token_ids[1:]) == text
        _, (alone,) = grit.encode([text], get_cache=True)
        assert (block.data - alone.data).abs().max() < BOUND


def test_more_texts_than_a_batch_take_their_caches_along(grit):
    texts = [f"text number {i} " * (1 + i % 7) for i in range(70)]
    vectors, blocks = grit.encode(texts, get_cache=True, batch_size=8)
    assert len(blocks) == len(vectors) == 70


def test_causal_embeddings_differ_and_have_blocks_too(llama_folder, grit):
    causal = GritLM(llama_folder, attn="cccc", dtype="float32", device="cpu")
    vectors, blocks = causal.encode(TEXTS, get_cache=True)
    assert np.abs(vectors - grit.encode(TEXTS)).max() > 0.01
    assert all(block.causal for block in blocks)
    alone = np.stack([causal.encode(text) for text in TEXTS])
    assert np.abs(vectors - alone).max() < BOUND


@pytest.mark.parametrize("pooling", ["weightedmean", "lasttoken", "cls"])
def test_poolings_are_independent_of_the_batch(llama_folder, pooling):
    model = GritLM(llama_folder, pooling_method=pooling, dtype="float32", device="cpu")
    alone = np.stack([model.encode(text, instruction=HEADER) for text in TEXTS])
    assert np.abs(model.encode(TEXTS, instruction=HEADER) - alone).max() < BOUND


def test_vectors_can_be_left_unnormalised_cut_and_recast(llama_folder, grit):
    raw = GritLM(llama_folder, normalized=False, dtype="float32", device="cpu").encode(TEXTS)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.01
    cut = grit.encode(TEXTS, truncate_dim=16)
    assert cut.shape == (5, 16)
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
    half = GritLM(llama_folder, dtype="bfloat16", device="cpu")
    assert half.encode(TEXTS, convert_to_tensor=True, recast=True).dtype == torch.bfloat16
    assert half.encode(TEXTS, convert_to_tensor=True).dtype == torch.float32
    assert half.encode(TEXTS, recast=True).dtype == np.float32


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_equal_those_of_sentence_transformers(grit, precision):
    quantisation = pytest.importorskip("sentence_transformers.util.quantization")
    texts = [f"text {i} about {i * 7}" for i in range(120)]
    theirs = quantisation.quantize_embeddings(grit.encode(texts), precision)
    ours = grit.encode(texts, precision=precision)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= (1 if "int8" in precision else 0)


def test_queries_and_documents(grit):
    documents = [{"title": "Cats", "text": "sleep a lot"}, {"text": "Dogs do not"}]
    texts = ["Cats sleep a lot", "Dogs do not"]
    assert np.array_equal(grit.encode_corpus(documents), grit.encode(texts))
    assert np.array_equal(grit.encode_corpus(documents[0]), grit.encode(texts[0]))
    assert np.array_equal(grit.encode_queries(texts), grit.encode(texts))
    header = gritlm_instruction()
    assert np.array_equal(grit.encode_document(documents), grit.encode(texts, instruction=header))
    assert np.array_equal(grit.encode_query(texts), grit.encode(texts, instruction=header))


def test_similarities(grit):
    vectors = grit.encode(TEXTS)
    scores = grit.similarity(vectors, vectors[:2])
    assert scores.shape == (5, 2)
    assert torch.allclose(scores, torch.as_tensor(vectors @ vectors[:2].T), atol=1e-6)
    assert torch.allclose(grit.similarity_pairwise(vectors, vectors), torch.ones(5), atol=1e-6)


def test_long_texts_are_cut_with_one_warning_that_counts_them(grit, caplog):
    with caplog.at_level(logging.WARNING, logger="gritlm"):
        cut = grit.encode(["a b c d e f g h " * 20, "short", "x y z " * 40], max_length=16)
    assert [r.message for r in caplog.records] == [
        "2 of 3 texts are longer than max_length=16 tokens and were cut"
    ]
    assert np.isfinite(cut).all()


@pytest.mark.parametrize(
    ("sentences", "options", "said"),
    [
        (["fine", ""], {}, "text 1 of 2 is empty"),
        (["fine", None], {}, "text 1 of 2 is None"),
        (["fine", "bad \ud800 one"], {}, "text 1 of 2 has a lone surrogate at character 4"),
        (["x"], {"instruction": 5}, "is 5"),
        (["x"], {"truncate_dim": 16.0}, "truncate_dim=16.0"),
        (["fine", float("nan")], {}, "text 1 of 2 is nan"),
        (7, {}, "sentences is int"),
        ({"text": "x"}, {}, "encode_corpus"),
        (b"bytes", {}, "sentences is bytes"),
        (["x"], {"instruction": gritlm_instruction("word " * 200), "max_length": 50}, "no room"),
        (["x"], {"max_length": 5000}, "at most 256"),
        (["x"], {"max_length": 0}, "max_length=0"),
        (["x"], {"batch_size": 0}, "batch_size=0"),
        (["x"], {"truncate_dim": 49}, "1 to 48"),
        (["x"], {"precision": "int7"}, "int7"),
    ],
)
def test_bad_input_is_named(grit, sentences, options, said):
    with pytest.raises(InputError, match=said):
        grit.encode(sentences, **options)


def test_unknown_arguments_are_never_swallowed(grit, llama_folder):
    with pytest.raises(TypeError, match="instructions"):
        grit.encode(["x"], instructions="x")
    with pytest.raises(UnknownArgumentError, match="did you mean 'device_map'"):
        GritLM(llama_folder, devicemap="auto")


@pytest.mark.parametrize(
    ("name", "value"), [("pooling_method", "avg"), ("attn", "bbbb"), ("mode", "both")]
)
def test_unknown_choices_are_refused(llama_folder, name, value):
    with pytest.raises(InputError, match=f"{name}='{value}'"):
        GritLM(llama_folder, **{name: value})


def test_a_generative_model_does_not_embed(llama_folder):
    with pytest.raises(ModeError, match="mode='generative'"):
        GritLM(llama_folder, mode="generative", device="cpu").encode(["x"])


def test_a_projection_comes_before_the_mean(llama_folder):
    model = GritLM(llama_folder, projection=8, dtype="float32", device="cpu")
    ids = model.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        projected = model.projection(model.lm.hidden(ids, causal=False))[0]
    by_hand = torch.nn.functional.normalize(projected.mean(dim=0), dim=0)
    assert np.abs(model.encode(TEXTS[0]) - by_hand.numpy()).max() < BOUND
