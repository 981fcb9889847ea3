"""The task files of recipes/evaluation/tasks ask what lm-eval's own tasks of these sets ask."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template

from gritlm.evaluation.generation import library, lm_eval_run, loading
from gritlm.evaluation.tasks.task import Task

RECIPES = Path(__file__).parents[3] / "recipes" / "evaluation" / "tasks"
THEIRS = Path(lm_eval.__file__).parent / "tasks"
if not RECIPES.is_dir():
    pytest.skip("the recipes are not part of this copy", allow_module_level=True)

TWO = {"query": "Cats sleep", "choices": ["most of the day.", "in the park."], "gold": 0}
MMLU = {"subject": "high_school_zoology", "question": "Who sleeps? ", "gold": 2}
MMLU |= {"choices": ["Ann", "Bob", "Cats", "Dogs"]}
TRUTH = {"question": "Do cats sleep?", "choices": ["Yes.", "No.", "They do."]}
BBH = {"subset": "navigate", "input": "Turn left.\nOptions:\n- Yes\n- No", "target": "No"}
IFEVAL = {
    "key": 1,
    "prompt": "Write on cats without commas, in three sentences or more.",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
    "kwargs": [{}, {"relation": "at least", "num_sentences": 3}],
}
SUM = {"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"}

ROWS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["arc_easy", "arc_challenge", "piqa", "openbookqa", "copa"], TWO),
    "boolq": {"passage": "Cats sleep.", "question": "do cats sleep?", "gold": 1},
    "commonsense_qa": {"question": "Who sleeps?", "choices": list("abcde"), "gold": 4},
    "winogrande": {
        "contexts": ["Ann saw Cat so Ann", "Ann saw Cat so Cat"],
        "continuation": "ran.",
        "gold": 1,
    },
    "lambada": {"context": "The quick brown fox jumps over the lazy", "continuation": "dog"},
    "triviaqa": {"question": "Who sleeps?", "answers": ["Cats", "Tomcats"]},
    "gsm8k": SUM,
    "mmlu": MMLU,
    "truthfulqa_mc1": TRUTH | {"gold": 0},
    "truthfulqa_mc2": TRUTH | {"labels": [1, 0, 1]},
    "bbh": BBH,
    "ifeval": IFEVAL,
}
BESIDE = {
    "gsm8k": {"fewshot.jsonl": [SUM] * 5},
    "mmlu": {"fewshot.jsonl": [MMLU] * 5},
    "bbh": {"prompts.jsonl": [{"subset": "navigate", "prompt": "Think.\n\nQ: one\nA: two"}]},
}


@pytest.fixture
def recipe(tmp_path):
    def make(name: str) -> Task:
        folder = tmp_path / name
        shutil.copytree(RECIPES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file, rows in {"test.jsonl": [ROWS[name]], **BESIDE.get(name, {})}.items():
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Task(name, "generation", "", folder)

    return make


def asked(task: Task) -> str | list[str]:
    with library.quiet():
        (loaded,) = loading.load(task)
        return loaded.fewshot_context(loaded.eval_docs[0], loaded.config.num_fewshot)


def test_every_task_file_has_a_row_here():
    assert {path.name for path in RECIPES.iterdir() if path.is_dir()} == ROWS.keys()


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"ifeval", "bbh", "gsm8k"}))
def test_a_task_file_is_measured(name, recipe, model):
    found = lm_eval_run.measure(model, recipe(name))
    assert found.count == 1
    assert found.items is not None


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [
        ("arc_easy", "arc/arc_easy.yaml", {"question": "Cats sleep"}),
        ("piqa", "piqa/piqa.yaml", {"goal": "Cats sleep"}),
        (
            "boolq",
            "super_glue/boolq/default.yaml",
            {"passage": "Cats sleep.", "question": "do cats sleep"},
        ),
        (
            "commonsense_qa",
            "commonsense_qa/default.yaml",
            {"question": "Who sleeps?", "choices": {"text": list("abcde")}},
        ),
        ("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", {"question": "Do cats sleep?"}),
        ("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2.yaml", {"question": "Do cats sleep?"}),
    ],
)
def test_the_prompt_is_lm_evals(name, file, row, recipe):
    template = load_yaml(THEIRS / file, resolve_func=False)["doc_to_text"]
    assert asked(recipe(name)) == apply_template(template, row)


def test_mmlu_shows_five_examples_of_the_subject(recipe):
    own = load_yaml(THEIRS / "mmlu" / "default" / "_default_template_yaml")["doc_to_text"]
    question = apply_template(own, MMLU)
    about = "The following are multiple choice questions (with answers) about high school zoology."
    assert asked(recipe("mmlu")) == "\n\n".join([about, *[f"{question} C"] * 5, question])


def test_gsm8k_shows_five_examples(recipe):
    question = f"Question: {SUM['question']}\nAnswer:"
    assert asked(recipe("gsm8k")) == f"{question} {SUM['answer']}\n\n" * 5 + question


def test_winogrande_asks_for_the_same_words_behind_both_names(recipe):
    assert asked(recipe("winogrande")) == ROWS["winogrande"]["contexts"]


def test_a_reasoned_answer_begins_behind_the_examples_of_its_subset(recipe):
    asks = f"Q: {BBH['input']}\nA: Let's think step by step.\n"
    assert asked(recipe("bbh")) == f"Think.\n\nQ: one\nA: two\n\n{asks}"


def test_truthfulqa_gives_the_share_of_the_right_answers(recipe):
    with library.quiet():
        (loaded,) = loading.load(recipe("truthfulqa_mc2"))
    found = loaded.process_results(ROWS["truthfulqa_mc2"], [(-900.0, False)] * 3)
    assert found == {"acc": pytest.approx(2 / 3)}


def test_ifeval_checks_answers_without_fetching_anything(recipe):
    with library.quiet():
        (loaded,) = loading.load(recipe("ifeval"))
    row = loaded.eval_docs[0]
    assert loaded.process_results(row, ["Cats sleep. Dogs run. Foxes jump."]) == {
        "prompt_level_strict_acc": True,
        "inst_level_strict_acc": [True, True],
        "prompt_level_loose_acc": True,
        "inst_level_loose_acc": [True, True],
    }
    assert loaded.process_results(row, ["Cats, sleep."])["inst_level_strict_acc"] == [False, False]
    assert loaded.aggregation()["inst_level_strict_acc"]([[True, False], [True, True]]) == 0.75
