from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from gritlm import GritLM
from gritlm.errors import InputError, MissingExtraError, ModeError
from gritlm.evaluation import harnesses
from gritlm.evaluation.generation import library, lm_eval_run, loading, loglikelihood
from gritlm.evaluation.harnesses import DataUnreachableError

from .conftest import CHOICE, COLOURS

WRITING = """
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl, shots: shots.jsonl}}
test_split: test
fewshot_split: shots
num_fewshot: 1
fewshot_config: {sampler: first_n}
output_type: generate_until
doc_to_text: !function utils.ask
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: loose, filter: [{function: remove_whitespace}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {main: "exact_match,loose"}
"""
ASK = "def ask(row):\n    return f\"Q: {row['question']}\\nA:\"\n"
QUESTIONS = [{"question": "Cats?", "answer": "yes"}, {"question": "Dogs?", "answer": "no"}]
SHOTS = '{"question": "Water?", "answer": "wet"}\n'


def seen_prompts(monkeypatch) -> list[str]:
    """What the tokenizer of the harness is handed from now on."""
    from gritlm.evaluation.generation.harness import GritLMHarness

    seen: list[str] = []
    whole = GritLMHarness.tok_encode

    def note(self, string, *args, **options):
        seen.append(string)
        return whole(self, string, *args, **options)

    monkeypatch.setattr(GritLMHarness, "tok_encode", note)
    return seen


def test_a_local_task_is_measured_row_by_row(task, model):
    found = lm_eval_run.measure(model, task(CHOICE, COLOURS))
    assert (found.task, found.half, found.kind) == ("colours", "generation", "multiple_choice")
    assert (found.metric, found.count) == ("acc_norm", 5)
    assert found.items is not None
    assert found.score == pytest.approx(100 * sum(found.items) / 5)
    assert found.details.keys() == {"acc"}
    assert found.harness.startswith("lm-eval 0.")
    assert found.seconds > 0


def test_a_limit_takes_the_first_rows(task, model):
    made = task(CHOICE, COLOURS)
    whole, part = lm_eval_run.measure(model, made), lm_eval_run.measure(model, made, limit=2)
    assert part.count == 2
    assert part.items == whole.items[:2]


def test_examples_stand_in_front_and_code_beside_the_task_is_run(task, model, monkeypatch):
    seen = seen_prompts(monkeypatch)
    found = lm_eval_run.measure(model, task(WRITING, QUESTIONS, utils_py=ASK, shots_jsonl=SHOTS))
    assert seen == ["Q: Water?\nA: wet\n\nQ: Cats?\nA:", "Q: Water?\nA: wet\n\nQ: Dogs?\nA:"]
    assert found.metric == "exact_match,loose"
    assert found.details.keys() == {"exact_match,strict"}


def test_rows_and_code_that_changed_are_read_anew(task, model, monkeypatch):
    lm_eval_run.measure(model, task(WRITING, QUESTIONS, utils_py=ASK, shots_jsonl=SHOTS))
    seen = seen_prompts(monkeypatch)
    rows = [{"question": "Foxes?", "answer": "quick"}]
    lm_eval_run.measure(
        model, task(WRITING, rows, utils_py=ASK.replace("Q:", "Say:"), shots_jsonl=SHOTS)
    )
    assert seen == ["Say: Water?\nA: wet\n\nSay: Foxes?\nA:"]


def test_a_task_says_whether_it_is_asked_in_the_chat_format(task, model, monkeypatch):
    seen = seen_prompts(monkeypatch)
    chatting = WRITING.replace("metadata: {", "metadata: {chat: true, ")
    made = task(chatting, QUESTIONS[:1], utils_py=ASK, shots_jsonl=SHOTS)
    lm_eval_run.measure(model, made)
    turns = ["user|>\nQ: Water?\nA:\n", "assistant|>\nwet\n", "user|>\nQ: Cats?\nA:\n"]
    assert seen == ["".join(f"<|{turn}" for turn in turns) + "<|assistant|>\n"]
    seen.clear()
    lm_eval_run.measure(model, made, chat=False)
    assert seen == ["Q: Water?\nA: wet\n\nQ: Cats?\nA:"]


def test_answered_requests_are_kept_and_an_interrupted_run_goes_on(
    task, model, tmp_path, monkeypatch
):
    made, file = task(CHOICE, COLOURS), tmp_path / "kept" / "requests.sqlite"
    expected = lm_eval_run.measure(model, made)
    whole, asked = loglikelihood._read, []

    def interrupted(lm, chosen):
        if asked:
            raise KeyboardInterrupt
        asked.append(chosen)
        return whole(lm, chosen)

    monkeypatch.setattr(loglikelihood, "TOKEN_BUDGET", {"cpu": 40})
    monkeypatch.setattr(loglikelihood, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lm_eval_run.measure(model, made, requests_cache=file)

    def counted(lm, chosen):
        asked.append(chosen)
        return whole(lm, chosen)

    monkeypatch.setattr(loglikelihood, "_read", counted)
    found = lm_eval_run.measure(model, made, requests_cache=file)
    pairs = [pair for chosen in asked for tree in chosen for pair in tree.pairs]
    assert found.items == expected.items
    assert len(pairs) == len(set(pairs)) == sum(len(row["choices"]) for row in COLOURS)
    monkeypatch.setattr(loglikelihood, "_read", None)  # nothing is left to read
    assert lm_eval_run.measure(model, made, requests_cache=file).items == expected.items


def test_a_broken_request_cache_is_made_anew(task, model, tmp_path):
    made, file = task(CHOICE, COLOURS), tmp_path / "requests.sqlite"
    file.write_bytes(b"no database at all" * 100)
    assert lm_eval_run.measure(model, made, requests_cache=file).count == 5
    with sqlite3.connect(file) as kept:
        assert kept.execute("SELECT count(*) FROM unnamed").fetchone()[0] > 0
    kept.close()


def test_a_request_cache_that_another_run_writes_to_is_not_broken(tmp_path, monkeypatch):
    file = tmp_path / "requests.sqlite"
    whole = sqlite3.connect
    monkeypatch.setattr(library.sqlite3, "connect", lambda name: whole(name, timeout=0))
    with closing(whole(file)) as other:
        other.execute("CREATE TABLE kept (row)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        assert library._is_database(file)
    file.write_bytes(b"no database at all" * 100)
    assert not library._is_database(file)


def test_a_model_without_head_is_refused(checkpoint, task):
    reader = GritLM(checkpoint, mode="embedding", device="cpu")
    with pytest.raises(ModeError, match="no LM head"):
        lm_eval_run.measure(reader, task(CHOICE, COLOURS))


def test_without_lm_eval_the_extra_is_named(task, model, monkeypatch):
    monkeypatch.setattr(harnesses, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[eval\]'"):
        lm_eval_run.measure(model, task(CHOICE, COLOURS))


class Hub:
    """Stands in for lm-eval's task manager, which reads thousands of files."""

    all_tasks = ("arc_easy", "arc_challenge", "boolq")
    task_index = dict.fromkeys(all_tasks)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def load(self, names):
        raise self.error


def test_an_unknown_name_gets_the_nearest_ones(model, monkeypatch):
    monkeypatch.setattr(library, "manager", Hub)
    with pytest.raises(InputError, match="lm-eval has no task 'arc_eazy'; did you mean 'arc_easy'"):
        lm_eval_run.measure(model, "arc_eazy")


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach the Hub"), TimeoutError()])
def test_data_that_cannot_be_fetched_is_named(error, model, monkeypatch):
    monkeypatch.setattr(library, "manager", lambda: Hub(error))
    with pytest.raises(DataUnreachableError, match="'arc_easy'"):
        lm_eval_run.measure(model, "arc_easy")


def test_an_error_of_our_own_is_not_taken_for_a_missing_network(model, monkeypatch):
    monkeypatch.setattr(library, "manager", lambda: Hub(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        lm_eval_run.measure(model, "arc_easy")


def test_examples_are_drawn_with_a_fixed_seed(task):
    drawn = WRITING.replace("fewshot_config: {sampler: first_n}\n", "")
    shots = "".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(50))
    made = task(drawn, QUESTIONS, utils_py=ASK, shots_jsonl=shots)
    first, second = (loading.load(made)[0].fewshot_context(QUESTIONS[0], 3) for _ in range(2))
    assert first == second
