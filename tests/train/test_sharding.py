"""Start of a sharded run: the main process alone loads the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from gritlm.errors import InputError, ModelError
from gritlm.train.config import TrainConfig
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.run import checkpoint, parallel, sharding
from gritlm.train.trainer import Trainer
from tests import tiny
from tests.train import runs
from tests.train.ranks import joined, spawn

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
FSDP = {"distribution": "fsdp"}
KL = {"kl_weight": 0.3}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_module_without_its_weights_is_the_same_module(tmp_path, family):
    """Names, shapes, ties, buffers and tokenizer are kept; parameters have no memory."""
    run = runs.make(tmp_path, family=family, training={"packing": False})
    expected = build(run).trainee
    parts, full = sharding._from_main(lambda: used(run), sharding._trainee)
    found = parts.trainee
    shapes = [
        {name: (p.shape, p.dtype, p.requires_grad) for name, p in each.named_parameters()}
        for each in (found, expected)
    ]
    assert shapes[0] == shapes[1]
    assert all(p.is_meta for p in found.parameters())
    tied = [
        {name for name, _ in each.named_parameters(remove_duplicate=False)}
        for each in (found, expected)
    ]
    assert tied[0] == tied[1]
    buffers = dict(found.named_buffers())
    assert buffers.keys() == dict(expected.named_buffers()).keys()
    for name, buffer in expected.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert full.keys() == shapes[0].keys()
    for name, value in expected.named_parameters():
        assert torch.equal(full[name], value), name
    assert parts.tokens.pieces(["two words"], first=True) == [
        parts.tokenizer("two words", add_special_tokens=False)["input_ids"]
    ]


def used(run: TrainConfig) -> TrainingParts:
    """Return a model that has computed all its states, for which transformers installs hooks."""
    parts = build(run, complete=False)
    parts.trainee.causal(torch.tensor([[1, 5]]), output_hidden_states=True)
    return parts


def started(rank: int, folder: str) -> None:
    """Start two runs, the second of which has weights that count; note memory and weights."""
    torch.set_num_threads(1)
    root = Path(folder)
    run = runs.make(root, family="large", loss=KL, training=FSDP)
    with joined(rank, f"{folder}/meet"):
        Trainer(runs.make(root, loss=KL, training={**FSDP, "output_dir": f"{folder}/first"}))
        before = _peak()
        trainer = Trainer(run)
        grown = _peak() - before
        reference = trainer.parts.trainee.reference
        modules: list[Any] = [trainer.module, reference]
        assert all(parallel.is_sharded(each) for each in modules)
        assert all(isinstance(p, DTensor) for each in modules for p in each.parameters())
        whole = [checkpoint.whole_weights(each) for each in modules]
        if rank == 0:
            torch.save(whole, root / "whole.pt")
        (root / f"{rank}.json").write_text(json.dumps(grown), encoding="utf-8")
        for name, error in _refusals(root, run).items():
            (root / f"{rank}.{name}").write_text(error, encoding="utf-8")


def _peak() -> int:
    """Return the most bytes that this process has had in memory; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def _refusals(root: Path, run: TrainConfig) -> dict[str, str]:
    """Return the errors of runs whose model cannot be loaded or trained."""
    missing = replace(run, model=replace(run.model, base=str(root / "missing")))
    frozen = replace(run, model=replace(run.model, freeze=("no such part",)))
    quantised = replace(run, model=replace(run.model, qlora=True))
    found = {}
    for name, bad in {"missing": missing, "frozen": frozen, "quantised": quantised}.items():
        with pytest.raises((InputError, ModelError)) as raised:
            sharding.build_sharded(bad, weights=None)
        found[name] = str(raised.value)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of two processes that have started a sharded run."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny.folder(folder / "large", **SIZES)
    runs.make(folder)
    spawn(started, folder)
    return folder


@pytest.mark.distributed
def test_every_process_has_its_shards_of_the_weights_of_the_main_process(folder):
    saved = tiny.model(**SIZES).state_dict()
    for whole in torch.load(folder / "whole.pt"):
        found = {name.removeprefix("model."): value for name, value in whole.items()}
        assert found.keys() == saved.keys()
        for name, value in saved.items():
            assert torch.equal(found[name], value), name


@pytest.mark.distributed
def test_other_processes_hold_their_shards_and_no_more(folder):
    """Half of the model and half of its reference; the main process holds one of them whole."""
    size = sum(value.nbytes for value in tiny.model(**SIZES).state_dict().values())
    if not _peak():
        pytest.skip("peak memory is read from /proc/self/status")
    main, other = (json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2))
    assert main > 1.5 * size
    assert other < 1.25 * size


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "missing: there is no such folder"),
        ("frozen", "freeze = 'no such part'"),
        ("quantised", "use distribution = 'ddp'"),
    ],
)
def test_an_error_of_the_main_process_is_that_of_every_process(folder, name, words):
    for rank in range(2):
        assert words in (folder / f"{rank}.{name}").read_text("utf-8")
