"""chat and generate: greedy text equals transformers, prefixes, streams, stop strings."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gritlm import GritLM, KVBlock, gritlm_instruction
from gritlm.errors import CacheMismatchError, InputError, ModeError
from gritlm.lm.attention.decode_views import decoding_view
from gritlm.lm.generator import TextStream, complete
from gritlm.lm.sampling import SamplingParams
from tests import tiny

PROMPT = "Ann has a red ball"


@pytest.fixture(scope="module")
def ids(grit: GritLM) -> torch.Tensor:
    return grit.tokenizer(PROMPT, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_greedy_tokens_equal_transformers(family):
    from gritlm.lm.unified import UnifiedLM

    model = tiny.model(family)
    prompt = torch.randint(3, 400, (1, 11), generator=torch.Generator().manual_seed(2))
    expected = model.generate(
        prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = complete(
        UnifiedLM(model), prompt[0].tolist(), sampler=SamplingParams().sampler(), max_new_tokens=20
    )
    assert list(ours) == expected[0, 11:].tolist()


def test_generate_equals_plain_transformers(grit, llama_folder, ids):
    plain = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    batch = grit.tokenizer([PROMPT, "Cats"], return_tensors="pt", padding=True, padding_side="left")
    for inputs in (ids, batch):
        given = (
            inputs if isinstance(inputs, dict) or hasattr(inputs, "keys") else {"input_ids": inputs}
        )
        expected = plain.generate(**given, max_new_tokens=15, do_sample=False, pad_token_id=0)
        assert torch.equal(grit.generate(inputs, max_new_tokens=15, do_sample=False), expected)
    beams = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    expected = plain.generate(ids, pad_token_id=0, **beams)
    assert torch.equal(grit.generate(ids, **beams), expected)


def test_generate_takes_what_transformers_takes(grit, llama_folder):
    plain = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    left = grit.tokenizer([PROMPT, "Cats"], return_tensors="pt", padding=True, padding_side="left")
    fixed = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    expected = plain.generate(**left, **fixed)
    assert torch.equal(grit.generate(**left, **fixed), expected)
    assert torch.equal(grit.generate(input_ids=left["input_ids"], **fixed), expected)
    assert torch.equal(grit.generate(left["input_ids"], **fixed), expected)
    assert torch.equal(grit.generate(left, use_cache=False, **fixed), expected)


def test_a_checkpoint_that_says_not_to_cache_writes_the_same(llama_folder, ids, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "copy")
    said = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    text = json.dumps(said | {"use_cache": False})
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    model = GritLM(folder, dtype="float32", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    fixed = {"max_new_tokens": 9, "do_sample": False}
    expected = plain.generate(ids, pad_token_id=0, **fixed)
    assert torch.equal(model.generate(ids, **fixed), expected)


def test_changed_weights_are_seen_by_all_that_was_derived_from_them(llama_folder):
    model = GritLM(llama_folder, dtype="bfloat16", device="cpu")
    step = torch.tensor([[7]])
    _, (block,) = model.encode(["Bob has a blue car."], get_cache=True)
    before = model.lm.decoding(step).logits
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(1.5)
    after, plain = model.lm.decoding(step).logits, model.model(step).logits
    assert (after - plain).abs().max() < 0.02 * plain.abs().max()
    assert (before - plain).abs().max() > 0.1 * plain.abs().max()
    with pytest.raises(CacheMismatchError):
        model.chat("What?", kv=block)


def test_the_published_example_runs_with_only_the_name_changed(tiny_model):
    """The README of the published GritLM-7B, word for word but for the model's name."""
    from scipy.spatial.distance import cosine

    folder = tiny_model(max_position_embeddings=4096)
    papers = Path(__file__).parents[2] / "examples" / "corpus" / "papers.jsonl"
    abstracts = [json.loads(line)["text"] for line in papers.read_text("utf-8").splitlines()]

    model = GritLM(str(folder), torch_dtype="auto")

    instruction = "Given a scientific paper title, retrieve the paper's abstract"
    queries = [
        "Bitcoin: A Peer-to-Peer Electronic Cash System",
        "Generative Representational Instruction Tuning",
    ]
    documents = abstracts

    d_rep = model.encode(documents, instruction=gritlm_instruction(""))
    q_rep = model.encode(queries, instruction=gritlm_instruction(instruction))
    cosines = [[1 - cosine(q, d) for d in d_rep] for q in q_rep]
    assert np.allclose(cosines, model.similarity(q_rep, d_rep), atol=1e-6)

    messages = [
        {
            "role": "user",
            "content": "Please write me a poem about my recent hike of Mt. Fuji at "
            "midnight in the style of Shakespeare.",
        },
    ]
    encoded = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt"
    )
    encoded = encoded.to(model.device)
    gen = model.generate(encoded, max_new_tokens=256, do_sample=False)
    decoded = model.tokenizer.batch_decode(gen)

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = plain.generate(**encoded, max_new_tokens=256, do_sample=False, pad_token_id=0)
    assert torch.equal(gen, expected)
    assert decoded[0].startswith("<|user|>\nPlease write me a poem")


def test_four_threads_of_all_calls_get_what_each_gets_alone(llama_folder):
    """In bfloat16, so that packed weights, made by whoever comes first, are part of it."""
    model = GritLM(llama_folder, dtype="bfloat16", device="cpu")
    texts = ["Bob has a blue car. " * 3, "Water", "Cats sleep most of the day."]
    _, (block, *_) = model.encode(texts, get_cache=True)
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    calls = [
        lambda: model.encode(texts, instruction=gritlm_instruction("Find")).tolist(),
        lambda: model.chat("What does Bob have?", kv=block, max_new_tokens=8),
        lambda: model.generate(ids, max_new_tokens=8, do_sample=False).tolist(),
        lambda: model.encode(texts, get_cache=True)[1][2].data.tolist(),
    ]
    fresh = GritLM(llama_folder, dtype="bfloat16", device="cpu")
    alone = [call() for call in calls]
    model.lm = model._encoder.lm = fresh.lm
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(calls[i % 4]) for i in range(40)]
    assert all(job.result() == alone[i % 4] for i, job in enumerate(jobs))


def test_a_stream_joined_is_the_text(grit):
    text = grit.chat(PROMPT, max_new_tokens=30)
    pieces = list(grit.chat(PROMPT, max_new_tokens=30, stream=True))
    assert "".join(pieces) == text
    assert len(pieces) > 1


def test_seeds_fix_what_is_drawn(grit):
    def draw(seed: int) -> str:
        return grit.chat(PROMPT, temperature=1.5, top_p=0.9, top_k=50, seed=seed, max_new_tokens=20)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_a_stop_string_ends_the_answer_even_across_tokens(grit):
    text = grit.chat(PROMPT, max_new_tokens=40)
    stop = text[10:14]
    stopped = grit.chat(PROMPT, max_new_tokens=40, stop=stop)
    assert stopped == text[: text.index(stop)]
    assert "".join(grit.chat(PROMPT, max_new_tokens=40, stop=[stop], stream=True)) == stopped


def test_characters_of_several_tokens_are_never_split():
    tokenizer = tiny.tokenizer()
    text = "né 日本 🙂 end"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = list(TextStream(tokenizer).pieces(ids))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_at_the_end_is_shown_as_such():
    tokenizer = tiny.tokenizer()
    ids = tokenizer("a 🙂", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(TextStream(tokenizer).pieces(ids)).startswith("a ")


def test_an_answer_ends_at_the_end_token(grit, ids):
    greedy = list(
        complete(grit.lm, ids[0].tolist(), sampler=SamplingParams().sampler(), max_new_tokens=9)
    )
    end = greedy[4]
    short = complete(
        grit.lm,
        ids[0].tolist(),
        sampler=SamplingParams().sampler(),
        max_new_tokens=9,
        end_ids=[end],
    )
    assert list(short) == greedy[: greedy.index(end)]


def test_a_prefix_read_causally_gives_the_same_text_as_plain_text(grit, ids):
    with torch.inference_mode():
        block = grit.lm.causal_block(ids[0, :5])
    whole = complete(
        grit.lm, ids[0].tolist(), sampler=SamplingParams().sampler(), max_new_tokens=15
    )
    cached = complete(
        grit.lm,
        ids[0, 5:].tolist(),
        kv=block,
        sampler=SamplingParams().sampler(),
        max_new_tokens=15,
    )
    assert list(cached) == list(whole)


def test_generate_continues_a_prefix_without_returning_it(grit, ids):
    with torch.inference_mode():
        block = grit.lm.causal_block(ids[0, :5])
    whole = grit.generate(ids, max_new_tokens=15, do_sample=False)
    cached = grit.generate(ids[:, 5:], kv=block, max_new_tokens=15, do_sample=False)
    assert cached.tolist() == whole[:, 5:].tolist()
    drawn = grit.generate(
        ids[:, 5:], kv=block, max_new_tokens=5, do_sample=True, num_return_sequences=3
    )
    assert drawn.shape[0] == 3
    with pytest.raises(InputError, match="neither beams"):
        grit.generate(ids[:, 5:], kv=block, max_new_tokens=5, num_beams=2)
    rows = grit.generate(ids[:, 5:].repeat(3, 1), kv=block, max_new_tokens=15, do_sample=False)
    assert rows.tolist() == cached.repeat(3, 1).tolist()


def test_chat_answers_from_the_block_of_an_embedded_document(grit):
    document = "Bob has a blue car. " * 4
    _, (block,) = grit.encode([document], instruction=gritlm_instruction(), get_cache=True)
    with_it = grit.chat("What does Bob have?", kv=block, max_new_tokens=12)
    assert with_it != grit.chat("What does Bob have?", max_new_tokens=12)
    assert with_it == grit.chat("What does Bob have?", kv=block.move(30), max_new_tokens=12)


def test_the_same_block_can_be_used_again_and_by_several(grit):
    _, (block,) = grit.encode(["Bob has a blue car."], get_cache=True)
    before = block.data.clone()
    answers = {grit.chat("Which?", kv=block, max_new_tokens=12) for _ in range(3)}
    assert len(answers) == 1
    assert torch.equal(block.data, before)


def test_another_models_block_is_refused(grit, tiny_model):
    other = GritLM(tiny_model(seed=9), dtype="float32", device="cpu")
    _, (block,) = other.encode(["Bob has a blue car."], get_cache=True)
    with pytest.raises(CacheMismatchError, match="was made by model"):
        grit.chat("What?", kv=block)
    with pytest.raises(CacheMismatchError, match="was made by model"):
        grit.generate(torch.tensor([[5, 6]]), kv=block, max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -2}, "top_k=-2"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 5.5}, "max_new_tokens=5.5"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": None}, "temperature=None"),
        ({"seed": "a", "temperature": 1.0}, "seed='a'"),
        ({"stop": [5]}, "text 0 of 1 is 5"),
        ({"kv": ["block"]}, r"expected one KVBlock, e.g. blocks\[0\]"),
    ],
)
def test_values_out_of_range_are_refused(grit, options, said):
    with pytest.raises(InputError, match=said):
        grit.chat("x", **options)


def test_a_prompt_that_does_not_fit_is_refused_and_a_full_context_ends_the_answer(grit):
    with pytest.raises(InputError, match="the model takes 256"):
        grit.chat("word " * 300)
    room = 256 - 240
    tokens = complete(grit.lm, [5] * 240, sampler=SamplingParams().sampler(), max_new_tokens=100)
    assert len(list(tokens)) == room


def test_wrong_inputs_of_generate_are_named(grit, ids):
    with pytest.raises(InputError, match="expected a tensor of token ids"):
        grit.generate("text", max_new_tokens=3)
    with pytest.raises(InputError, match="pixel_values"):
        grit.generate({"input_ids": ids, "pixel_values": ids}, max_new_tokens=3)
    with pytest.raises(InputError, match="no token ids"):
        grit.generate(torch.zeros(1, 0, dtype=torch.long))


def test_a_model_without_head_does_not_write(llama_folder, ids):
    model = GritLM(llama_folder, mode="embedding", dtype="float32", device="cpu")
    assert not any("lm_head" in name for name, _ in model.model.named_parameters())
    for call in (lambda: model.chat("x"), lambda: model.generate(ids)):
        with pytest.raises(ModeError, match="no LM head"):
            call()


def test_packed_weights_decode_like_plain_ones(llama_folder):
    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.bfloat16).eval()
    view = decoding_view(model)
    if view is model:
        pytest.skip("this machine packs no weights (no bfloat16 kernels of oneDNN)")
    step = torch.tensor([[7]])
    with torch.inference_mode():
        ours, theirs = view(step).logits.float(), model(step).logits.float()
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_compiled_steps_write_the_same_text(grit, monkeypatch):
    """The graph is traced but left to the ordinary kernels: no compiler is needed here."""
    import functools

    from gritlm.lm.unified import UnifiedLM

    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda f, **_: eager(f))
    compiled = UnifiedLM(grit.model, compiled=True)
    _, (block,) = grit.encode(["Bob has a blue car."], get_cache=True)
    for kv in (None, block):
        plain, ours = (
            list(
                complete(
                    lm, [5, 9, 7], kv=kv, sampler=SamplingParams().sampler(), max_new_tokens=12
                )
            )
            for lm in (grit.lm, compiled)
        )
        assert ours == plain


def test_the_smallest_nucleus_holds_the_likeliest_token():
    smallest = SamplingParams(temperature=1.0, top_p=1e-320, seed=0).sampler()  # 0 in float32
    assert {smallest(torch.tensor([0.0, 2.0, 1.0])) for _ in range(20)} == {1}


def test_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    draw = SamplingParams(temperature=1.0, seed=0).sampler()
    counts = torch.bincount(torch.tensor([draw(logits) for _ in range(4000)]), minlength=4) / 4000
    assert (counts - logits.exp()).abs().max() < 0.03
    nucleus = SamplingParams(temperature=1.0, top_p=0.7, seed=0).sampler()
    assert {nucleus(logits) for _ in range(200)} == {0, 1}
    assert {
        SamplingParams(temperature=9.0, top_k=1, seed=0).sampler()(logits) for _ in range(20)
    } == {0}


def test_join_of_two_documents_answers(grit):
    _, (one, two) = grit.encode(["Ann has a ball.", "Bob has a car."], get_cache=True)
    both = KVBlock.join([one, two[1:]])
    assert both.token_ids.tolist().count(1) == 1
    assert isinstance(grit.chat("Who?", kv=both, max_new_tokens=5), str)


def test_the_ids_of_a_chat_are_those_that_it_reads(grit):
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": PROMPT}]
    read = grit.chat_ids(messages)
    answer = grit.generate(torch.tensor([read]), max_new_tokens=8, do_sample=False)[0, len(read) :]
    text = grit.tokenizer.decode(answer, skip_special_tokens=True)
    assert grit.chat(messages, max_new_tokens=8) == text
    behind = grit.chat_ids(messages, start=False)
    _, [block] = grit.encode(["The ball is red."], get_cache=True)
    answer = grit.generate(torch.tensor([behind]), kv=block, max_new_tokens=8, do_sample=False)
    text = grit.tokenizer.decode(answer[0, len(behind) :], skip_special_tokens=True)
    assert grit.chat(messages, kv=block, max_new_tokens=8) == text


def test_a_conversation_that_is_none_has_no_ids(grit):
    with pytest.raises(InputError, match="messages is empty"):
        grit.chat_ids([])
