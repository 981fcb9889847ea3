"""Adapters on the LM head and the embeddings: trained, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gritlm import GritLM
from gritlm.errors import InputError, TrainingError
from gritlm.train.config import DataConfig, TrainConfig
from gritlm.train.data import packing
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ChatExample
from gritlm.train.model import heads, hidden_states
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.model.module import Weights
from gritlm.train.objectives import losses
from gritlm.train.run import step_checks
from gritlm.train.run.signals import StopSignal
from gritlm.train.trainer import Trainer, train
from tests import tiny
from tests.train import runs

BOUND = 1e-5
LAYERS = ("q_proj", "down_proj")
KINDS: dict[str, dict[str, Any]] = {
    "lora on lm_head": {"lora_target_modules": (*LAYERS, "lm_head")},
    "lora on embed_tokens": {"lora_target_modules": (*LAYERS, "embed_tokens")},
    "lora on both": {"lora_target_modules": (*LAYERS, "embed_tokens", "lm_head")},
    "lora on all linear": {"lora_target_modules": "all-linear"},
    "dora on lm_head": {"lora_target_modules": (*LAYERS, "lm_head"), "use_dora": True},
    "dora on embed_tokens": {"lora_target_modules": (*LAYERS, "embed_tokens"), "use_dora": True},
    "lm_head whole": {"lora_target_modules": LAYERS, "lora_modules_to_save": ("lm_head",)},
    "embed_tokens whole": {
        "lora_target_modules": LAYERS,
        "lora_modules_to_save": ("embed_tokens",),
    },
    "dropout on lm_head": {"lora_target_modules": (*LAYERS, "lm_head"), "lora_dropout": 0.3},
}
ON_THE_HEAD = ("lora on lm_head", "dora on lm_head", "lora on both", "lm_head whole")

# PEFT warns of every adapter on tied weights, when it is put on and when it is merged.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}:UserWarning")
    for start in ("Model (has|with) `tie_word_embeddings", "Input and output embeddings are no")
]


def made(folder: Path, kind: str, *, tied: bool = False, **sections: Any) -> TrainConfig:
    tiny.folder(folder / "base", tie_word_embeddings=tied, pad_token_id=None)
    said = {"lora": True, "base": str(folder / "base"), **KINDS.get(kind, {})}
    return runs.make(folder, **{**sections, "model": {**said, **sections.get("model", {})}})


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def grown(parts: TrainingParts) -> TrainingParts:
    """Give new adapters, which start at zero, something to do."""
    torch.manual_seed(3)
    for parameter in trained(parts.trainee).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return parts


def rows_of(parts: TrainingParts) -> packing.PackedBatch:
    collator = Collator(parts.tokens, parts.settings, DataConfig(generative_max_len=128))
    prompts = [collator.chat(ChatExample(tuple(row["messages"]))) for row in runs.CHATS[:4]]
    return packing.padded([prompt for prompt in prompts if prompt is not None])


def plain_logits(parts: TrainingParts, rows: packing.PackedBatch) -> Tensor:
    """The forward pass of transformers through PEFT's modules (B, L, V)."""
    return parts.trainee.model(rows.ids_BL, attention_mask=rows.real_BL.long()).logits


def gradients(loss: Tensor, parts: TrainingParts) -> Iterator[tuple[str, Tensor]]:
    parameters = trained(parts.trainee)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
        yield name, torch.zeros_like(parameter) if gradient is None else gradient


def assert_same_gradients(ours: Tensor, expected: Tensor, parts: TrainingParts) -> None:
    for (name, one), (_, other) in zip(
        gradients(ours, parts), gradients(expected, parts), strict=True
    ):
        largest = other.abs().max().clamp_min(1e-3)
        assert (one - other).abs().max() <= BOUND * largest, name


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_moves(tmp_path, kind, tied):
    trainer = Trainer(made(tmp_path, kind, tied=tied, training={"learning_rate": 1e-2}))
    before = {name: p.detach().clone() for name, p in trained(trainer.parts.trainee).items()}
    trainer.run(StopSignal())
    after = trained(trainer.parts.trainee)
    assert before
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "dropout" not in kind])
def test_the_chunked_loss_equals_the_forward_pass_of_peft(tmp_path, kind, tied):
    parts = grown(build(made(tmp_path, kind, tied=tied)))
    rows, causal = rows_of(parts), parts.trainee.causal
    expected = F.cross_entropy(
        plain_logits(parts, rows)[:, :-1].flatten(0, 1),
        rows.labels_BL[:, 1:].flatten(),
        ignore_index=losses.IGNORE,
    )
    hidden_BLD = hidden_states.generative_states(parts.trainee.decoder, rows)
    ours = losses.chunked_next_token(hidden_BLD, heads.head_of(causal), rows.labels_BL, chunk=7)
    assert ours.item() == pytest.approx(expected.item(), rel=BOUND)
    assert_same_gradients(ours, expected, parts)


@pytest.mark.parametrize("kind", ON_THE_HEAD)
def test_the_divergence_is_that_from_the_model_without_adapters(tmp_path, kind):
    parts = grown(build(made(tmp_path, kind)))
    rows = rows_of(parts)
    weight_N = losses.token_weights(rows.labels_BL, kind="mixed")
    total, found = parts.trainee("write", rows, Weights(weight_N, kl=0.7))
    with torch.no_grad(), parts.trainee.model.disable_adapter():
        start = plain_logits(parts, rows)
    for parameter in trained(parts.trainee.model).values():
        parameter.requires_grad_(False)
    kl = losses.kl_to(plain_logits(parts, rows), start, rows.labels_BL)
    assert found["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    cross_entropy = losses.next_token(plain_logits(parts, rows), rows.labels_BL)
    assert total.item() == pytest.approx((cross_entropy + 0.7 * kl).item(), rel=1e-4)


def test_a_head_with_an_adapter_never_sees_more_tokens_than_a_chunk(tmp_path):
    parts = build(made(tmp_path, "lora on lm_head"))
    rows, seen = rows_of(parts), []
    causal = parts.trainee.causal
    causal.get_output_embeddings().register_forward_hook(
        lambda module, given, found: seen.append(len(given[0]))
    )
    hidden_BLD = hidden_states.generative_states(parts.trainee.decoder, rows)
    head = heads.head_of(causal)
    losses.chunked_next_token(hidden_BLD, head, rows.labels_BL, chunk=5).backward()
    count = int((rows.labels_BL[:, 1:] != losses.IGNORE).sum())
    assert max(seen) == 5
    assert sum(seen) == 2 * count  # once forward, once more to go back


def test_a_batch_without_an_answer_has_a_loss_of_zero_with_a_gradient(tmp_path):
    parts = build(made(tmp_path, "lora on lm_head"))
    rows = rows_of(parts)
    hidden_BLD = hidden_states.generative_states(parts.trainee.decoder, rows)
    nothing_BL = torch.full_like(rows.labels_BL, losses.IGNORE)
    loss = losses.chunked_next_token(hidden_BLD, heads.head_of(parts.trainee.causal), nothing_BL)
    loss.backward()
    assert loss.item() == 0


def test_adapters_on_the_head_train_under_autocast_in_float32(tmp_path):
    for kind in ("dora on lm_head", "lm_head whole", "embed_tokens whole"):
        run = made(tmp_path / kind.replace(" ", "-"), kind, training={"bf16": True})
        parts = build(run)
        assert {p.dtype for p in trained(parts.trainee).values()} == {torch.float32}
        assert train(run).steps == 3


def test_a_run_of_one_mode_can_train_the_head_alone(tmp_path):
    only = {"lora_target_modules": ("lm_head",)}
    run = made(tmp_path, "", model=only, training={"mode": "generative", "learning_rate": 1e-2})
    trainer = Trainer(run)
    trainer.run(StopSignal())
    assert all(p.any() for p in trained(trainer.parts.trainee).values())
    with pytest.raises(InputError, match=r"embedding objective reads no trained .*lm_head.lora_A"):
        train(made(tmp_path / "unified", "", model=only))
    with pytest.raises(InputError, match="freeze leaves nothing to train in mode = 'embedding'"):
        train(made(tmp_path / "embedding", "", model=only, training={"mode": "embedding"}))


def test_a_mode_that_reads_no_head_reports_its_adapter_as_not_trained(tmp_path):
    said: list[str] = []
    run = made(tmp_path, "lora on lm_head", training={"mode": "embedding"})
    train(run, report=said.append)
    (line,) = [line for line in said if "uses no LM head" in line]
    assert "lm_head.lora_A" in line
    assert "lm_head.lora_B" in line
    names = [name for name in runs.weights(tmp_path / "out") if "lm_head" in name]
    assert names


def test_tied_weights_are_trained_as_embeddings_where_no_head_is_read(tiny_model, tmp_path):
    base = tiny_model(tie_word_embeddings=True)
    run = runs.make(tmp_path, model={"base": str(base)}, training={"mode": "embedding"})
    train(run)
    name = "model.embed_tokens.weight"
    assert not torch.equal(runs.weights(base)[name], runs.weights(tmp_path / "out")[name])


def test_a_run_stops_before_its_first_step_when_a_parameter_takes_no_part(tmp_path, monkeypatch):
    """The head without its adapter, as it was read once."""
    run = made(tmp_path, "lora on lm_head")
    original = heads.head_of
    monkeypatch.setattr(heads, "head_of", lambda model, **_: original(model, adapted=False))
    with pytest.raises(TrainingError, match=r"step 1: no gradient reached .*lm_head\.lora_A"):
        train(run)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


class Experts(nn.Module):
    """Two experts as modules of their own, one of which got no token."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.zero = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        return self.experts[0](value) + 0 * self.zero


def test_experts_without_a_token_and_gradients_of_zero_are_no_alarm():
    module = Experts()
    module(torch.ones(2)).sum().backward()
    assert module.experts[1].weight.grad is None
    step_checks.require_gradients(module, 1)
    module.unread = nn.Parameter(torch.ones(2))
    with pytest.raises(TrainingError, match="step 4: no gradient reached unread,"):
        step_checks.require_gradients(module, 4)


@pytest.mark.parametrize(
    ("setting", "names", "message"),
    [
        ("lora_target_modules", ("q_proj", "lmhead"), "'lmhead'.*did you mean 'lm_head'"),
        ("lora_modules_to_save", ("embed_token",), "'embed_token'.*did you mean 'embed_tokens'"),
    ],
)
def test_a_module_that_is_not_there_is_named(tmp_path, setting, names, message):
    with pytest.raises(InputError, match=message):
        build(made(tmp_path, "", model={setting: names}))


def test_dora_on_a_weight_with_a_row_of_zeros_is_refused(tiny_model, tmp_path):
    """The row of the padding token is zero; DoRA divides by its norm."""
    base = tiny_model(tie_word_embeddings=True)
    said = {"base": str(base), "lora": True, **KINDS["dora on lm_head"]}
    with pytest.raises(InputError, match=r"lm_head has 1 row of zeros.*use_dora = false"):
        build(runs.make(tmp_path, model=said))


def test_an_adapter_is_gone_on_with_as_it_is(tmp_path):
    train(made(tmp_path, "lora on lm_head"))
    first = str(tmp_path / "out")
    again = {"training": {"output_dir": str(tmp_path / "again")}}
    kept = made(tmp_path, "lora on lm_head", **again, model={"adapter": first})
    trainer = Trainer(kept)
    assert [name for name in trained(trainer.parts.trainee) if "lm_head" in name]
    for wrong in ("lora on embed_tokens", "lm_head whole", "dora on lm_head"):
        with pytest.raises(InputError, match=r"embed_tokens|lora_modules_to_save|use_dora"):
            build(made(tmp_path, wrong, **again, model={"adapter": first}))


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_adapter_is_loaded_as_it_was_trained(tmp_path, kind, tied, merged):
    training = {"learning_rate": 1e-2, "save_merged": merged}
    trainer = Trainer(made(tmp_path, kind, tied=tied, training=training))
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    unmerged: list[Tensor] = []

    def keep(measured: Any) -> None:
        with torch.no_grad():
            unmerged.append(trainer.parts.trainee.eval().model(ids).logits)
        Trainer.finish(trainer, measured)

    trainer.finish = keep  # type: ignore[method-assign]
    trainer.run(StopSignal())
    loaded = GritLM(tmp_path / "out", dtype="float32", device="cpu")
    start = GritLM(tmp_path / "base", dtype="float32", device="cpu")
    with torch.no_grad():
        found, before = (model.lm.logits(ids) for model in (loaded, start))
    assert (found - unmerged[0]).abs().max() <= BOUND * unmerged[0].abs().max()
    assert (before - unmerged[0]).abs().max() > 100 * BOUND
