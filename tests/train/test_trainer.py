"""Whole runs: what they leave behind, and ways of running that must give the same."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gritlm import GritLM
from gritlm.errors import InputError, TrainingError
from gritlm.lm.hub.model_config import FusionSettings, read_settings
from gritlm.train.config import EvaluationConfig, SourceConfig
from gritlm.train.run import checkpoint, metrics_log
from gritlm.train.trainer import train
from tests.train import runs

BOUND = 1e-5
# Adam divides by the root of squared gradients, so rounding of a gradient near 0 shows in weights.
AFTER_ADAM = 2e-4


def test_a_trained_model_loads_here_and_with_plain_transformers(tmp_path):
    run = runs.make(tmp_path, rag=True, loss={"kl_weight": 0.5, "rag_kl_weight": 0.5})
    result = train(run)
    assert (result.steps, result.stopped) == (3, False)
    model = GritLM(result.output_dir, dtype="float32", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(result.output_dir, dtype=torch.float32)
    ids = torch.tensor([[1, 20, 30, 40]])
    assert torch.allclose(model.lm.logits(ids), plain(ids).logits, atol=BOUND)
    assert model.encode(["cats"]).shape == (1, 48)
    start = runs.weights(tmp_path / "llama")
    assert any(
        not torch.equal(start[name], w) for name, w in runs.weights(run.training.output_dir).items()
    )


@pytest.mark.parametrize("mode", ["unified", "embedding", "generative"])
def test_a_mode_trains_its_halves_and_lowers_their_losses(tmp_path, mode):
    run = runs.make(tmp_path, training={"mode": mode, "max_steps": 12, "learning_rate": 3e-3})
    result = train(run)
    course = runs.losses(run)
    halves = {
        "unified": {"loss_emb", "loss_gen"},
        "embedding": {"loss_emb"},
        "generative": {"loss_gen"},
    }
    for half in ("loss_emb", "loss_gen"):
        assert (half in result.metrics) == (half in halves[mode])
        if half in halves[mode]:
            first, last = (sum(e[half] for e in part) for part in (course[:3], course[-3:]))
            assert last < first


def test_the_folder_tells_what_was_done(tmp_path):
    run = runs.make(tmp_path)
    train(run)
    folder = tmp_path / "out"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("base_model:", "pairs", "chats", "learning_rate", "loss_emb", "loss.png"):
        assert said in card
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "run.json").read_text())["training"]["max_steps"] == 3
    entries = metrics_log.read(folder)
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert {"loss_emb", "loss_gen", "grad_norm", "learning_rate", "tokens_per_second"} <= entries[
        0
    ].keys()


@pytest.mark.parametrize("lora", [False, True])
def test_four_micro_batches_equal_one_batch(tmp_path, lora):
    one = runs.make(tmp_path, rag=True, model={"lora": lora})
    four = runs.elsewhere(
        one,
        "four",
        gradient_accumulation_steps=4,
        per_device_train_batch_size=2,
        per_device_generative_bs=1,
    )
    train(one)
    train(four)
    runs.assert_same_course(one, four, BOUND)
    runs.assert_same_weights(one.training.output_dir, four.training.output_dir, AFTER_ADAM)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_budget": 64},
        {"packing": False},
        {"gradient_checkpointing": True},
        {"attn_implementation": "gritlm_both"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_saves_memory_changes_nothing(tmp_path, changes):
    attention = {name: changes.pop(name) for name in [*changes] if name.startswith("attn")}
    plain = runs.make(tmp_path, rag=True, loss={"kl_weight": 0.3})
    other = runs.elsewhere(plain, "other", **changes)
    other = replace(other, model=replace(other.model, **attention))
    train(plain)
    train(other)
    runs.assert_same_course(plain, other, BOUND)
    runs.assert_same_weights(plain.training.output_dir, other.training.output_dir, AFTER_ADAM)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"lora": True, "lora_dropout": 0.2, "projection": 16}},
        {"training": {"sharded_checkpoints": True}},
    ],
    ids=["whole", "lora with dropout and projection", "sharded"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, changes):
    more = {"max_steps": 6, **changes.get("training", {})}
    whole = runs.make(tmp_path, rag=True, **{**changes, "training": more})
    train(whole)
    parted = runs.elsewhere(whole, "parted", save_steps=4)
    train(parted)
    folder = tmp_path / "parted"
    for name in ("model.safetensors", "adapter_model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    again = runs.elsewhere(parted, "parted", resume_from_checkpoint=True)
    result = train(again)
    assert result.steps == 6
    assert [entry["step"] for entry in runs.losses(again)] == [1, 2, 3, 4, 5, 6]
    runs.assert_same_course(whole, again, 1e-7)
    runs.assert_same_weights(tmp_path / "out", folder, 1e-7)


def test_a_checkpoint_is_a_model_too(tmp_path):
    run = runs.make(tmp_path, training={"save_steps": 3})
    train(run)
    kept = checkpoint.checkpoints(tmp_path / "out")
    assert [path.name for path in kept] == ["checkpoint-000003"]
    model, final = (
        GritLM(path, dtype="float32", device="cpu") for path in (kept[0], tmp_path / "out")
    )
    assert (model.encode(["cats"]) == final.encode(["cats"])).all()


def test_the_calibration_of_the_start_is_not_kept(tmp_path):
    """It was measured on other weights."""
    run = runs.make(tmp_path)
    start = Path(run.model.base)
    settings = read_settings(start)
    replace(settings, fusion=FusionSettings(6.0, 0.1, 0.9)).save(start)
    train(run)
    assert read_settings(start).fusion is not None
    assert read_settings(Path(run.training.output_dir)).fusion is None


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(runs.make(tmp_path, training={"max_steps": 5, "save_steps": 1, "save_total_limit": 2}))
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "out")]
    assert names == ["checkpoint-000004", "checkpoint-000005"]


def test_a_run_is_never_overwritten_by_accident(tmp_path):
    run = runs.make(tmp_path, training={"max_steps": 1})
    train(run)
    before = runs.weights(tmp_path / "out")
    with pytest.raises(InputError, match="already holds a run"):
        train(run)
    assert runs.weights(tmp_path / "out").keys() == before.keys()
    train(runs.elsewhere(run, "out", overwrite_output_dir=True))


def test_a_checkpoint_of_other_settings_names_what_differs(tmp_path):
    run = runs.make(tmp_path, training={"save_steps": 3})
    train(run)
    other = replace(run, loss=replace(run.loss, temperature=0.5))
    with pytest.raises(InputError, match=r"loss.temperature was 0.1 and is 0.5"):
        train(runs.elsewhere(other, "out", resume_from_checkpoint=True))
    more = runs.elsewhere(run, "out", resume_from_checkpoint=True, per_device_train_batch_size=4)
    with pytest.raises(InputError, match="embedding rows a step was 8 and is 4"):
        train(more)


def test_resuming_without_a_checkpoint_is_refused(tmp_path):
    run = runs.make(tmp_path, training={"resume_from_checkpoint": True})
    with pytest.raises(InputError, match="holds no checkpoint"):
        train(run)
    named = runs.elsewhere(run, "out", resume_from_checkpoint=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no checkpoint of a training run"):
        train(named)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = runs.make(tmp_path, training={"max_steps": 4, "save_steps": 2})
    write_model, calls = checkpoint.write_model, []

    def full(*args: object, **options: object) -> None:
        calls.append(1)
        write_model(*args, **options)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_model", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(run)
    kept = checkpoint.checkpoints(tmp_path / "out")
    assert [path.name for path in kept] == ["checkpoint-000002"]
    monkeypatch.undo()
    assert train(runs.elsewhere(run, "out", resume_from_checkpoint=True)).steps == 4
    assert not list((tmp_path / "out").glob(".*"))


def test_numbers_that_are_none_stop_the_run_and_are_written_down(tmp_path):
    run = runs.make(tmp_path, training={"max_steps": 5, "learning_rate": 1e30, "max_grad_norm": 0})
    with pytest.raises(TrainingError, match="gave a non-finite loss"):
        train(run)
    (path,) = (tmp_path / "out").glob("trouble-*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {row["kind"] for row in rows} == {"query", "passage", "sample"}
    assert all(math.isfinite(entry["grad_norm"]) for entry in runs.losses(run))


def test_what_is_handed_in_is_measured_between_steps(tmp_path):
    run = replace(
        runs.make(tmp_path, model={"lora": True}), evaluation=EvaluationConfig(eval_steps=2)
    )
    asked = []

    def measure(model: GritLM) -> dict[str, float]:
        asked.append(model.encode(["cats sleep"])[0])
        return {"size": float(model.encode("cats").shape[0])}

    result = train(run, evaluate=measure)
    assert result.metrics["eval/size"] == 48
    assert [e["step"] for e in metrics_log.read(tmp_path / "out") if "eval/size" in e] == [2, 3]
    assert len(asked) == 2
    served = GritLM(tmp_path / "out", dtype="float32", device="cpu").encode(["cats sleep"])[0]
    assert abs(served - asked[-1]).max() <= BOUND
    unmeasured = runs.elsewhere(run, "unmeasured")
    train(unmeasured)
    runs.assert_same_course(run, unmeasured, 0)


def test_held_out_rows_are_measured_and_not_trained(tmp_path):
    run = runs.make(tmp_path)
    held = EvaluationConfig(
        embedding=run.data.embedding, generative=run.data.generative, eval_steps=2
    )
    result = train(replace(run, evaluation=held))
    assert {"eval/loss_emb", "eval/accuracy", "eval/loss_gen"} <= result.metrics.keys()
    without = runs.elsewhere(run, "without")
    train(without)
    runs.assert_same_weights(tmp_path / "out", tmp_path / "without", 0)


def test_a_generative_set_of_one_row_is_enough(tmp_path):
    one = runs.write(tmp_path / "one.jsonl", runs.CHATS[:1])
    train(runs.make(tmp_path, data={"generative": (one,)}))


def test_rows_without_anything_to_train_are_skipped_and_counted(tmp_path, caplog):
    long = {"messages": [{"role": "user", "content": "word " * 300}, runs.CHATS[0]["messages"][1]]}
    rows = runs.write(tmp_path / "long.jsonl", [*runs.CHATS[:3], long])
    said = []
    train(runs.make(tmp_path, data={"generative": (rows,)}), report=said.append)
    assert "long.jsonl:4" in caplog.text
    assert any("had nothing to train" in line for line in said)
    only = runs.write(tmp_path / "only.jsonl", [long])
    run = runs.make(tmp_path, data={"generative": (only,)})
    with pytest.raises(InputError, match="none has anything to train"):
        train(runs.elsewhere(run, "only"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"query_max_len": 8}}, "query_max_len = 8: .* no room"),
        ({"training": {"per_device_train_batch_size": 64}}, "40 rows"),
        ({"model": {"freeze": ("no_such_part",)}}, "freeze = 'no_such_part'"),
        ({"model": {"freeze": ("model",)}}, "nothing to train"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_reason(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(runs.make(tmp_path, **changes))


def test_frozen_parts_stay_as_they_are(tmp_path):
    train(runs.make(tmp_path, model={"freeze": ("embed_tokens", "layers.0.")}))
    start, trained = runs.weights(tmp_path / "llama"), runs.weights(tmp_path / "out")
    for name in start:
        frozen = "embed_tokens" in name or "layers.0." in name
        assert torch.equal(start[name], trained[name]) == frozen, name


def test_an_unfinished_checkpoint_is_none(tmp_path):
    run = runs.make(tmp_path, training={"save_steps": 3})
    train(run)
    shutil.copytree(
        tmp_path / "out" / "checkpoint-000003", tmp_path / "out" / ".checkpoint-000009.tmp"
    )
    assert len(checkpoint.checkpoints(Path(run.training.output_dir))) == 1


def test_a_folder_that_is_overwritten_keeps_nothing_of_the_run_before(tmp_path):
    run = runs.make(tmp_path, model={"lora": True}, training={"max_steps": 1, "save_steps": 1})
    train(run)
    whole = runs.make(tmp_path, training={"max_steps": 1, "overwrite_output_dir": True})
    train(whole)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {"adapter_config.json", "adapter_model.safetensors", "checkpoint-000001"} & names
    assert GritLM(tmp_path / "out", device="cpu").lm.decoder is not None


def test_a_start_that_failed_can_be_made_again(tmp_path):
    run = runs.make(tmp_path, training={"max_steps": 1})
    with pytest.raises(InputError, match="does not exist"):
        train(
            replace(
                run, evaluation=EvaluationConfig(embedding=(SourceConfig(str(tmp_path / "none")),))
            )
        )
    assert train(run).steps == 1


def test_the_folder_of_a_model_is_no_folder_for_a_run(tmp_path):
    run = runs.make(tmp_path)
    for name, said in (("llama", "is the folder of model.base"), ("other", "that no run has made")):
        if name == "other":
            shutil.copytree(tmp_path / "llama", tmp_path / "other")
        with pytest.raises(InputError, match=said):
            train(runs.elsewhere(run, name, overwrite_output_dir=True))
    assert runs.weights(tmp_path / "llama").keys()


def test_going_on_from_an_earlier_checkpoint_leaves_the_later_ones_behind(tmp_path):
    run = runs.make(tmp_path, training={"max_steps": 5, "save_steps": 1, "save_total_limit": 9})
    train(run)
    whole = runs.weights(tmp_path / "out")
    first = str(tmp_path / "out" / "checkpoint-000001")
    again = runs.elsewhere(
        run, "out", resume_from_checkpoint=first, save_steps=2, save_total_limit=2
    )
    train(again)
    names = [path.name for path in checkpoint.checkpoints(tmp_path / "out")]
    assert names == ["checkpoint-000002", "checkpoint-000004"]
    assert all(torch.equal(whole[name], w) for name, w in runs.weights(tmp_path / "out").items())


def test_the_folder_may_be_the_current_one(tmp_path, monkeypatch):
    run = runs.make(tmp_path, training={"max_steps": 1})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = train(replace(run, training=replace(run.training, output_dir=".")))
    assert result.steps == 1
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_an_instruction_that_leaves_no_room_is_found_before_the_first_step(tmp_path):
    run = runs.make(tmp_path)
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write(json.dumps({"query": ["word " * 60, "q"], "pos": ["p"]}) + "\n")
    with pytest.raises(InputError, match=r"pairs.jsonl:41: query_max_len = 40: .*no room"):
        train(run)
    assert not (tmp_path / "out").exists()


def test_going_on_from_another_run_does_not_touch_the_run_that_is_there(tmp_path):
    run = runs.make(tmp_path, training={"save_steps": 2})
    train(run)
    train(runs.elsewhere(run, "other"))
    foreign = str(tmp_path / "other" / "checkpoint-000002")
    with pytest.raises(InputError, match="already holds a run"):
        train(runs.elsewhere(run, "out", resume_from_checkpoint=foreign))


def test_folders_that_users_name_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-best", "checkpoint-000002", "checkpoint-1000000"):
        (tmp_path / name).mkdir()
    names = [path.name for path in checkpoint.checkpoints(tmp_path)]
    assert names == ["checkpoint-000002", "checkpoint-1000000"]


def test_a_full_disk_is_said_of_shards_too(tmp_path, monkeypatch):
    run = runs.make(tmp_path, training={"save_steps": 2, "sharded_checkpoints": True})

    def full(*args: object, **options: object) -> None:
        raise checkpoint.CheckpointException("", {0: (OSError(28, "No space left"), None)})

    monkeypatch.setattr(checkpoint.state_dict_saver, "save", full)
    with pytest.raises(TrainingError, match="cannot be written"):
        train(run)
    assert not list((tmp_path / "out").glob(".*"))
