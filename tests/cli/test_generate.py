"""``gritlm generate`` writes what ``GritLM.chat`` answers."""

from __future__ import annotations

PROMPT = "Why does bread rise?"
SAMPLING = ("--temperature", "0.9", "--top-p", "0.9", "--top-k", "50", "--seed", "3")


def test_the_answer_is_that_of_chat(run_model, lm):
    result = run_model("generate", PROMPT, "--max-new-tokens", "12")
    assert result.exit_code == 0
    assert result.stdout == lm.chat(PROMPT, max_new_tokens=12) + "\n"
    assert result.stderr == ""


def test_streamed_or_not_the_answer_is_the_same(run_model):
    words = ("generate", PROMPT, "--max-new-tokens", "12", *SAMPLING)
    assert run_model(*words).stdout == run_model(*words, "--no-stream").stdout


def test_sampling_options_reach_the_model(run_model, lm):
    result = run_model("generate", PROMPT, "--max-new-tokens", "12", *SAMPLING)
    expected = lm.chat(PROMPT, max_new_tokens=12, temperature=0.9, top_p=0.9, top_k=50, seed=3)
    assert result.stdout == expected + "\n"
    assert expected != lm.chat(PROMPT, max_new_tokens=12)


def test_each_stop_string_ends_the_answer(run_model, lm):
    whole = lm.chat(PROMPT, max_new_tokens=12)
    stop = whole[3:5]
    words = ("generate", PROMPT, "--max-new-tokens", "12")
    stopped = run_model(*words, "--stop", "never in it", "--stop", stop).stdout
    assert stopped == whole[: whole.index(stop)] + "\n"


def test_the_prompt_comes_from_stdin(run_model):
    words = ("--max-new-tokens", "5")
    expected = run_model("generate", PROMPT, *words).stdout
    assert run_model("generate", *words, stdin=f"{PROMPT}\n").stdout == expected
    assert run_model("generate", "-", *words, stdin=PROMPT).stdout == expected


def test_a_prompt_of_several_lines_stays_one_prompt(run_model, lm):
    result = run_model("generate", "--max-new-tokens", "5", stdin="first\nsecond\n")
    assert result.stdout == lm.chat("first\nsecond", max_new_tokens=5) + "\n"


def test_a_prompt_that_does_not_fit_is_refused(error_of, model_options):
    message = error_of("generate", *model_options, "bread " * 4100)
    assert "4096" in message


def test_a_prompt_that_is_not_utf8_is_refused(error_of):
    assert "byte 4 (0xe9)" in error_of("generate", stdin=b"caf\xe9")
