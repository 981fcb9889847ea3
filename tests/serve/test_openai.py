"""The official client, LangChain and LiteLLM against a running server."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import openai
import pytest

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from tests.serve.conftest import Served

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What colour is the ball?"},
]


def told(oracle: GritLM, messages: object, **options: object) -> str:
    return str(oracle.chat(messages, **options))


def test_a_greedy_chat_is_what_the_library_writes(live: Served, oracle: GritLM):
    found = live.openai.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=20
    )
    (choice,) = found.choices
    assert choice.message.content == told(oracle, TALK, max_new_tokens=20)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert found.usage.prompt_tokens == len(oracle.chat_ids(TALK))
    assert found.usage.completion_tokens == 20
    assert found.usage.total_tokens == found.usage.prompt_tokens + 20


def test_a_stream_spells_the_same_text(live: Served, oracle: GritLM):
    stream = live.openai.chat.completions.create(
        model="tiny",
        messages=TALK,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    *events, last = list(stream)
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == told(oracle, TALK, max_new_tokens=20)
    assert events[0].choices[0].delta.role == "assistant"
    assert [event.choices[0].finish_reason for event in events[-2:]] == [None, "length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 20
    assert len({event.id for event in [*events, last]}) == 1


def test_a_conversation_that_goes_on_is_read_from_where_it_stopped(live: Served):
    first = live.openai.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=5
    )
    again = live.openai.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=5
    )
    assert again.choices[0].message.content == first.choices[0].message.content
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached == again.usage.prompt_tokens - 1  # what comes behind the last one is wanted


def test_several_answers_are_drawn_each_with_its_own_seed(live: Served, oracle: GritLM):
    found = live.openai.chat.completions.create(
        model="tiny", messages=TALK, n=3, seed=7, temperature=1.5, max_tokens=8
    )
    texts = [choice.message.content for choice in found.choices]
    assert texts == [
        told(oracle, TALK, max_new_tokens=8, temperature=1.5, seed=7 + n) for n in range(3)
    ]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert found.usage.prompt_tokens == len(oracle.chat_ids(TALK))
    assert found.usage.completion_tokens == 24


def test_log_probabilities_come_with_the_likeliest_tokens(live: Served):
    found = live.openai.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    content = found.choices[0].logprobs.content
    assert len(content) == 6
    for each in content:
        assert each.logprob == max(top.logprob for top in each.top_logprobs)
        assert each.token == each.top_logprobs[0].token
        assert len(each.top_logprobs) == 3
    whole = b"".join(bytes(each.bytes) for each in content)
    assert whole.decode(errors="replace") == found.choices[0].message.content


def test_a_stop_string_across_tokens_ends_the_answer(live: Served, oracle: GritLM):
    text = told(oracle, TALK, max_new_tokens=20)
    stop = text[5:8]
    for streamed in (False, True):
        found = live.openai.chat.completions.create(
            model="tiny",
            messages=TALK,
            temperature=0,
            max_tokens=20,
            stop=["never", stop],
            stream=streamed,
        )
        if streamed:
            events = list(found)
            written = "".join(event.choices[0].delta.content or "" for event in events)
            assert events[-1].choices[0].finish_reason == "stop"
        else:
            written = found.choices[0].message.content
            assert found.choices[0].finish_reason == "stop"
        assert written == text[: text.index(stop)]


def test_parts_of_text_are_one_message(live: Served):
    parts = [{"type": "text", "text": "What colour "}, {"type": "text", "text": "is the ball?"}]
    found = live.openai.chat.completions.create(
        model="tiny",
        temperature=0,
        max_tokens=5,
        messages=[TALK[0], {"role": "user", "content": parts}],
    )
    whole = live.openai.chat.completions.create(
        model="tiny", messages=TALK, temperature=0, max_tokens=5
    )
    assert found.choices[0].message.content == whole.choices[0].message.content


def test_an_answer_can_be_handed_back_as_the_client_dumps_it(live: Served):
    found = live.openai.chat.completions.create(model="tiny", messages=TALK, max_tokens=3, seed=1)
    answer = found.choices[0].message.model_dump()
    more = [*TALK, answer | {"content": answer["content"] or "."}, TALK[1]]
    again = live.openai.chat.completions.create(model="tiny", messages=more, max_tokens=3)
    assert again.choices[0].finish_reason == "length"


def test_completions_go_on_with_each_prompt(live: Served, oracle: GritLM):
    prompts = ["The quick brown", "Water boils"]
    found = live.openai.completions.create(
        model="tiny", prompt=prompts, temperature=0, max_tokens=6, n=2, logprobs=1
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for number, prompt in enumerate(prompts):
        ids = oracle.tokenizer(prompt, return_tensors="pt")["input_ids"]
        wanted = oracle.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        text = oracle.tokenizer.decode(wanted, skip_special_tokens=True)
        for choice in found.choices[2 * number : 2 * number + 2]:
            assert choice.text == text
            assert len(choice.logprobs.tokens) == 6
            assert choice.logprobs.text_offset[0] == 0
    lengths = [len(oracle.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    assert found.usage.prompt_tokens == sum(lengths)
    assert found.usage.completion_tokens == 24


def test_a_streamed_completion_of_ids_spells_the_same(live: Served, oracle: GritLM):
    ids = oracle.tokenizer("The quick brown")["input_ids"]
    whole = live.openai.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=9)
    stream = live.openai.completions.create(
        model="tiny", prompt=ids, temperature=0, max_tokens=9, stream=True
    )
    assert "".join(event.choices[0].text for event in stream) == whole.choices[0].text


def test_embeddings_are_those_of_the_library(live: Served, oracle: GritLM):
    texts = ["Cats sleep most of the day.", "<|embed|> is text here", "x " * 100]
    for encoding in ("float", "base64"):
        found = live.openai.embeddings.create(model="tiny", input=texts, encoding_format=encoding)
        vectors = [
            np.frombuffer(b64decode(item.embedding), "<f4")
            if isinstance(item.embedding, str)
            else item.embedding
            for item in found.data
        ]
        wanted = oracle.encode(texts, instruction=gritlm_instruction())
        np.testing.assert_allclose(np.array(vectors), wanted, atol=1e-5)
    default = live.openai.embeddings.create(model="tiny", input=texts)  # asks for base64
    np.testing.assert_allclose([item.embedding for item in default.data], wanted, atol=1e-5)
    assert [item.index for item in default.data] == [0, 1, 2]


def test_usage_counts_all_tokens_that_are_read(live: Served, oracle: GritLM):
    found = live.openai.embeddings.create(model="tiny", input="Cats sleep")
    header = oracle.tokenizer("<|embed|>\n")["input_ids"]
    text = oracle.tokenizer("Cats sleep", add_special_tokens=False)["input_ids"]
    assert found.usage.prompt_tokens == found.usage.total_tokens == len(header) + len(text)


def test_dimensions_keep_the_first_ones_at_length_one(live: Served):
    whole = live.openai.embeddings.create(model="tiny", input="Cats sleep").data[0].embedding
    cut = live.openai.embeddings.create(model="tiny", input="Cats sleep", dimensions=16)
    wanted = np.array(whole[:16]) / np.linalg.norm(whole[:16])
    np.testing.assert_allclose(cut.data[0].embedding, wanted, atol=1e-6)


def test_models_are_listed_under_each_name(live: Served):
    names = ["tiny", "small", "tiny:rag", "small:rag"]  # with a store
    assert [model.id for model in live.openai.models.list()] == names
    assert live.openai.models.retrieve("small").id == "small"
    found = live.openai.chat.completions.create(model="small", messages=TALK, max_tokens=1)
    assert found.model == "small"


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"extra_body": {"chat_template": "x"}}, openai.BadRequestError, "unsupported_value"),
    ],
)
def test_the_client_raises_what_its_users_catch(live: Served, call, error, code):
    with pytest.raises(error) as caught:
        live.openai.chat.completions.create(**({"model": "tiny", "messages": TALK} | call))
    assert caught.value.code == code


def test_langchain_chats_and_embeds(live: Served, oracle: GritLM):
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    at = {
        "base_url": f"{live.url}/v1",
        "api_key": "none",
        "model": "tiny",
        "http_client": live.http,
    }
    chat = ChatOpenAI(**at, temperature=0, max_tokens=8)
    wanted = told(oracle, "Hello", max_new_tokens=8)
    assert chat.invoke("Hello").content == wanted
    assert "".join(str(chunk.content) for chunk in chat.stream("Hello")) == wanted
    embeddings = OpenAIEmbeddings(**at, check_embedding_ctx_length=False)
    wanted_ND = oracle.encode(["Cats", "Dogs"], instruction=gritlm_instruction())
    np.testing.assert_allclose(embeddings.embed_documents(["Cats", "Dogs"]), wanted_ND, atol=1e-5)


def test_litellm_chats_and_embeds(live: Served, oracle: GritLM, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network
    import litellm

    at = {"api_base": f"{live.url}/v1", "model": "openai/tiny", "client": live.openai}
    found = litellm.completion(
        **at, messages=[{"role": "user", "content": "Hello"}], temperature=0, max_tokens=8
    )
    assert found.choices[0].message.content == told(oracle, "Hello", max_new_tokens=8)
    vectors = litellm.embedding(**at, input=["Cats"]).data
    wanted_ND = oracle.encode(["Cats"], instruction=gritlm_instruction())
    np.testing.assert_allclose([vectors[0]["embedding"]], wanted_ND, atol=1e-5)
