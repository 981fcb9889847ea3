"""What is trained is what is served: one module against the facade, adapters, heads, routers."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError, MissingExtraError, ModelError
from gritlm.train.config import DataConfig
from gritlm.train.data import packing, rag_samples
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ChatExample, EmbeddingExample, InstructedText, RagExample
from gritlm.train.model import build as build_module
from gritlm.train.model import heads, hidden_states
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.model.module import Weights
from gritlm.train.objectives import losses
from gritlm.train.trainer import train
from tests import tiny
from tests.train import runs

BOUND = 1e-5
TEXTS = ["cats sleep", "dogs like long walks in the park", "water boils"]


def built(folder: Path, **sections: object) -> TrainingParts:
    parts = build(runs.make(folder, **sections))
    parts.trainee.train()
    return parts


def facade(parts: TrainingParts) -> GritLM:
    trainee = parts.trainee
    return GritLM.around(trainee.causal, parts.tokenizer, parts.settings, trainee.projection)


def chats(parts: TrainingParts, count: int = 4) -> packing.PackedBatch:
    collator = Collator(parts.tokens, parts.settings, DataConfig(generative_max_len=128))
    made = [collator.chat(ChatExample(tuple(row["messages"]))) for row in runs.CHATS[:count]]
    return packing.padded([prompt for prompt in made if prompt is not None])


@pytest.mark.parametrize("attn", ["bbcc", "cccc", "bb", "cc"])
@pytest.mark.parametrize("pooling_method", ["mean", "weightedmean", "lasttoken", "cls"])
def test_every_way_of_embedding_is_trained_as_it_is_served(tmp_path, attn, pooling_method):
    said = {"attn": attn, "pooling_method": pooling_method, "projection": 16, "normalized": False}
    parts = built(tmp_path, model=said)
    collator = Collator(parts.tokens, parts.settings, DataConfig())
    rows = [
        EmbeddingExample(InstructedText(text, "find"), (InstructedText(text),)) for text in TEXTS
    ]
    batch = collator.embedding(rows, [Random(0) for _ in rows]).queries
    with torch.no_grad():
        ours = parts.trainee("embed", batch)
    served = facade(parts).encode(TEXTS, instruction=gritlm_instruction("find"))
    assert abs(ours.numpy() - served).max() <= BOUND * abs(served).max()


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma", "phi"])
def test_adapters_sit_on_every_linear_layer_and_train_in_both_halves(tmp_path, family):
    parts = built(tmp_path, family=family, model={"lora": True})
    adapted = {
        name.split(".lora_")[0] for name, _ in parts.trainee.named_parameters() if "lora_" in name
    }
    plain = tiny.model(family)
    linear = [
        name
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not plain.get_output_embeddings()
    ]
    assert all(any(each.endswith(name) for each in adapted) for name in linear)
    if family == "mixtral":
        assert any("experts" in name for name in adapted)
    _grow(parts)
    prompts = [parts.tokens.for_embedding([text], max_length=64)[0][0] for text in TEXTS]
    parts.trainee("embed", prompts).sum().backward()
    assert _moved(parts) == {True}
    parts.trainee.zero_grad()
    rows = chats(parts)
    count = int((rows.labels_BL != losses.IGNORE).sum())
    parts.trainee("write", rows, Weights(torch.ones(count)))[0].backward()
    assert _moved(parts) == {True}


def _grow(parts: TrainingParts) -> None:
    """Adapters start at zero: give them something to do."""
    torch.manual_seed(3)
    for name, parameter in parts.trainee.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def _moved(parts: TrainingParts) -> set[bool]:
    return {
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in parts.trainee.named_parameters()
        if "lora_" in name and "experts" not in name
    }


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_merged_adapters_equal_unmerged_ones_in_both_passes(tmp_path, family):
    parts = built(tmp_path, family=family, model={"lora": True})
    _grow(parts)
    apart = facade(parts)
    ids = torch.tensor([[1, 20, 30, 40, 50]])
    vectors = apart.encode(TEXTS)
    with torch.no_grad():
        logits = parts.trainee.causal(ids).logits
    parts.trainee.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    parts.settings.save(tmp_path / "adapter")
    merged = GritLM(tmp_path / family, adapter=tmp_path / "adapter", dtype="float32", device="cpu")
    assert abs(merged.encode(TEXTS) - vectors).max() <= BOUND
    with torch.no_grad():
        assert (merged.lm.logits(ids) - logits).abs().max() <= BOUND * logits.abs().max()


@pytest.mark.parametrize("merged", [False, True])
def test_a_lora_run_saves_an_adapter_or_whole_weights(tmp_path, merged):
    run = runs.make(
        tmp_path, model={"lora": True, "projection": 16}, training={"save_merged": merged}
    )
    train(run)
    folder = tmp_path / "out"
    assert (folder / "model.safetensors").exists() == merged
    assert (folder / "adapter_model.safetensors").exists() != merged
    model = GritLM(folder, dtype="float32", device="cpu")
    assert model.encode("cats").shape == (16,)
    assert (folder / "gritlm_projection.safetensors").exists()
    assert model.projection.weight.abs().sum() > 0
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[1, 20, 30]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model.lm.logits(ids), atol=BOUND)


def test_the_divergence_from_the_start_is_zero_at_the_start(tmp_path):
    for lora in (False, True):
        parts = build(runs.make(tmp_path, model={"lora": lora}, loss={"kl_weight": 1.0}))
        rows = chats(parts)
        weight_N = losses.token_weights(rows.labels_BL, kind="mixed")
        total, found = parts.trainee("write", rows, Weights(weight_N, kl=1.0))
        assert abs(float(found["kl"])) <= BOUND
        expected = float(found["cross_entropy"])
        assert total.item() == pytest.approx(expected, rel=BOUND)


def test_the_divergence_keeps_a_model_near_its_start(tmp_path):
    free = runs.make(
        tmp_path, model={"lora": True}, training={"max_steps": 8, "learning_rate": 1e-2}
    )
    kept = runs.make(
        tmp_path,
        model={"lora": True},
        loss={"kl_weight": 20.0},
        training={"max_steps": 8, "learning_rate": 1e-2, "output_dir": str(tmp_path / "kept")},
    )
    ids = torch.randint(3, 400, (2, 20), generator=torch.Generator().manual_seed(0))
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    gaps = []
    for run in (free, kept):
        train(run)
        model = GritLM(run.training.output_dir, dtype="float32", device="cpu")
        with torch.no_grad():
            gaps.append(float((model.lm.logits(ids) - start(ids).logits).abs().mean()))
    assert gaps[1] < 0.7 * gaps[0]


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere2", "phi", "gpt_neox"])
def test_every_head_gives_the_loss_of_its_model(family):
    model = tiny.model(family)
    prompt = torch.randint(3, 400, (2, 12), generator=torch.Generator().manual_seed(1))
    rows = packing.PackedBatch(
        prompt,
        prompt,
        torch.arange(12).repeat(2, 1),
        torch.zeros_like(prompt),
        torch.ones_like(prompt, dtype=torch.bool),
    )
    with torch.no_grad():
        state_ND = losses.supervised_states(
            hidden_states.generative_states(model.base_model, rows), rows.labels_BL
        )
        expected = model(prompt).logits[:, :-1].flatten(0, 1)
    assert (heads.logits(model, state_ND) - expected).abs().max() <= BOUND * expected.abs().max()
    head = heads.head_of(model)
    if isinstance(head, torch.Tensor):
        product = state_ND @ head.T
        assert (product - expected).abs().max() <= BOUND * expected.abs().max()
    assert isinstance(head, torch.Tensor) == (family in ("llama", "gpt_neox"))


@pytest.mark.parametrize("family", ["gemma2", "phi"])
def test_a_head_that_does_more_trains_too(tmp_path, family):
    run = runs.make(tmp_path, family=family, loss={"kl_weight": 0.5}, training={"max_steps": 6})
    train(run)
    course = runs.losses(run)
    assert course[-1]["loss_gen"] < course[0]["loss_gen"]


def test_the_routers_loss_is_that_of_transformers(tmp_path):
    parts = built(tmp_path, family="mixtral")
    rows, model = chats(parts), parts.trainee.causal
    weight_N = losses.token_weights(rows.labels_BL, kind="mixed")
    share = heads.router_weight(model)
    assert share > 0
    total, found = parts.trainee("write", rows, Weights(weight_N, router=share))
    mask = rows.real_BL.long()
    expected = model(
        rows.ids_BL, attention_mask=mask, labels=rows.labels_BL, output_router_logits=True
    )
    assert float(found["router"]) == pytest.approx(expected.aux_loss.item(), rel=BOUND)
    assert total.item() == pytest.approx(expected.loss.item(), rel=BOUND)


def test_a_mixture_is_trained_with_its_routers_loss(tmp_path):
    run = runs.make(tmp_path, family="mixtral", rag=True)
    result = train(run)
    assert "loss_gen/router" in result.metrics
    assert GritLM(tmp_path / "out", dtype="float32", device="cpu").encode("cats").any()


def test_gradients_under_autocast_reach_float32_master_weights(tmp_path):
    run = runs.make(tmp_path, training={"bf16": True})
    parts = build(run)
    assert {p.dtype for p in parts.trainee.parameters()} == {torch.float32}
    adapted = build(runs.make(tmp_path, model={"lora": True}, training={"bf16": True}))
    formats = {p.dtype for p in adapted.trainee.parameters() if p.requires_grad}
    assert formats == {torch.float32}
    train(run)


def test_a_reference_read_under_autocast_takes_no_gradient_from_the_weights(tmp_path):
    """Casts are kept for a while: one made without a graph must not be used with one."""
    run = runs.make(tmp_path, rag=True, training={"bf16": True}, data={"generative_max_len": 250})
    parts = build(run)
    collator = Collator(parts.tokens, parts.settings, run.data, run.rag)
    question = RagExample("who?", ("Ann has a ball.", "Bob has a car."), "Ann")
    sample = next(s for n in range(99) if (s := collator.sample(question, Random(n))) and s.blocks)
    rows = rag_samples.rows([sample], pad=0)
    weight_N = losses.token_weights(rows.labels_BL, kind="mixed")
    with parts.trainee.casting():
        total, _ = parts.trainee("write", rows, Weights(weight_N, kl=1.0, own=True))
        total.backward()
    trained = {n: p.grad is not None for n, p in parts.trainee.named_parameters()}
    assert all(trained.values()), trained


def test_rag_rows_that_could_not_be_served_are_refused(tmp_path):
    with pytest.raises(InputError, match="causal blocks only"):
        build(runs.make(tmp_path, rag=True, model={"attn": "cccc"}))
    build(
        runs.make(tmp_path, rag=True, model={"attn": "cccc"}, rag_options={"blocks": ("causal",)})
    )


def test_qlora_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(InputError, match="qlora = true needs a GPU"):
        build(runs.make(tmp_path, model={"qlora": True}, training={"device": "cpu"}))


def test_kernels_that_are_not_installed_name_their_extra(tmp_path):
    with pytest.raises(MissingExtraError, match=r"\[gpu\]"):
        build(runs.make(tmp_path, training={"use_liger": True}))


def test_a_second_round_of_adapters_goes_on_from_the_first(tmp_path):
    first = runs.make(tmp_path, model={"lora": True}, training={"learning_rate": 3e-2})
    train(first)
    again = {"lora": True, "base": first.training.output_dir}
    second = runs.make(
        tmp_path,
        model=again,
        training={"learning_rate": 1e-12, "output_dir": str(tmp_path / "second")},
    )
    train(second)
    one, two, base = (
        GritLM(folder, dtype="float32", device="cpu").encode("cats sleep")
        for folder in (first.training.output_dir, tmp_path / "second", tmp_path / "llama")
    )
    assert abs(one - base).max() > 1e-3
    assert abs(one - two).max() <= BOUND


def test_the_default_model_is_trained_on_with_its_adapter_and_its_base_without(
    tmp_path, monkeypatch
):
    """What a name means is found by ``resolve``; packed adapters are stored in bfloat16."""
    first = runs.make(tmp_path, model={"lora": True, "lora_r": 4})
    train(first)
    adapter = Path(first.training.output_dir)
    stored = {name: weight.bfloat16() for name, weight in runs.weights(adapter).items()}
    save_file(stored, adapter / "adapter_model.safetensors", {"format": "pt"})
    names = {None: str(adapter), "base": None}
    monkeypatch.setattr(
        build_module.checkpoint, "resolve", lambda name, _: (str(tmp_path / "llama"), names[name])
    )
    for name, rank in ((None, 4), ("base", 16)):
        parts = build(runs.make(tmp_path, model={"lora": True, "base": name}))
        trained = {n: p for n, p in parts.trainee.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert {p.shape[0] for n, p in trained.items() if "lora_A" in n} == {rank}
        grown = [bool(p.any()) for n, p in trained.items() if "lora_B" in n]
        assert all(grown) if name is None else not any(grown)
    whole = build(runs.make(tmp_path, model={"base": None})).trainee.causal.state_dict()
    start = runs.weights(tmp_path / "llama")
    assert not torch.equal(
        whole["model.layers.0.mlp.up_proj.weight"], start["model.layers.0.mlp.up_proj.weight"]
    )


def test_what_an_adapter_of_the_hub_says_about_itself_counts(tmp_path, monkeypatch):
    said = {"lora": True, "pooling_method": "lasttoken", "query_instruction": "Find it"}
    train(runs.make(tmp_path, model=said, training={"mode": "embedding"}))
    cache = tmp_path / "cache" / "models--owner--adapter"
    shutil.copytree(tmp_path / "out", cache / "snapshots" / "1")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1", encoding="utf-8")
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "cache")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    settings = build(runs.make(tmp_path, model={"lora": True, "adapter": "owner/adapter"})).settings
    assert (settings.pooling_method, settings.query_instruction) == ("lasttoken", "Find it")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("owner/other", "'owner/other' is neither a folder here nor a model"),
        ("runs/none/here", "runs/none/here"),
    ],
)
def test_an_adapter_that_is_not_there_is_named(tmp_path, monkeypatch, adapter, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message):
        build(runs.make(tmp_path, model={"lora": True, "adapter": adapter}))


def test_adapters_of_another_model_are_refused(tiny_model, tmp_path):
    train(runs.make(tmp_path, model={"lora": True}, training={"mode": "embedding", "max_steps": 1}))
    wider = tiny_model(hidden_size=64, head_dim=16)
    said = {"lora": True, "base": str(wider), "adapter": str(tmp_path / "out")}
    with pytest.raises(ModelError, match="down_proj has 64 outputs, the adapter's 48"):
        build(runs.make(tmp_path, model=said))


def test_whole_weights_can_start_from_an_adapter_and_be_gone_on_with(tmp_path):
    first = runs.make(tmp_path, model={"lora": True}, training={"learning_rate": 3e-2})
    train(first)
    said = {"adapter": first.training.output_dir}
    whole = runs.make(
        tmp_path,
        model=said,
        loss={"kl_weight": 0.1},
        training={"max_steps": 4, "save_steps": 2, "output_dir": str(tmp_path / "whole")},
    )
    train(whole)
    checkpoint = str(tmp_path / "whole" / "checkpoint-000002")
    train(runs.elsewhere(whole, "again", resume_from_checkpoint=checkpoint))
    runs.assert_same_weights(tmp_path / "whole", tmp_path / "again", 1e-7)


def test_frozen_adapters_stay_frozen_beside_the_divergence(tmp_path):
    run = runs.make(
        tmp_path, model={"lora": True, "freeze": ("layers.0.",)}, loss={"kl_weight": 1.0}
    )
    parts = build(run)
    rows = chats(parts)
    weight_N = losses.token_weights(rows.labels_BL, kind="mixed")
    parts.trainee("write", rows, Weights(weight_N, kl=1.0))[0].backward()
    moved = {name for name, p in parts.trainee.named_parameters() if p.grad is not None}
    assert moved
    assert not [name for name in moved if "layers.0." in name or "lora_" not in name]


def test_a_model_that_lets_packed_samples_see_each_other_is_refused(tmp_path):
    import transformers as hf

    config = hf.OPTConfig(
        vocab_size=400,
        hidden_size=48,
        num_hidden_layers=2,
        ffn_dim=96,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=48,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        init_std=0.15,
    )
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "opt")
    tiny.tokenizer().save_pretrained(tmp_path / "opt")
    said = {"model": {"base": str(tmp_path / "opt")}}
    with pytest.raises(InputError, match="packing = false"):
        build(runs.make(tmp_path, **said, training={"mode": "generative"}))
    build(runs.make(tmp_path, **said, training={"mode": "generative", "packing": False}))


def test_attention_without_masks_is_refused(tmp_path):
    with pytest.raises(InputError, match="attn_implementation = 'flex_attention'"):
        build(runs.make(tmp_path, model={"attn_implementation": "flex_attention"}))


def test_plain_transformers_chats_in_the_format_that_was_trained(tmp_path):
    parts = build(runs.make(tmp_path, model={"template": "gritlm"}))
    turns = [{"role": "user", "content": "hi"}]
    rendered = parts.tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered == "<s><|user|>\nhi"
    kept = build(runs.make(tmp_path, model={"template": "auto"}))
    assert kept.settings.template == "tokenizer"
