"""Models that see or hear, in training: what is trained is what is served; GradCache; packing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.hub import default_model
from gritlm.lm.tokens import Prompt
from gritlm.train.data import packing
from gritlm.train.data.collate import Collator, EmbeddingBatch
from gritlm.train.data.sources import load
from gritlm.train.model import towers
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.model.module import Weights
from gritlm.train.objectives import gradcache, losses
from tests.lm.media.checkpoints import FAMILIES
from tests.train import media_runs, runs
from tests.train.reading import distance

BOUND = 1e-4
EXACT = 1e-5
EVERY = sorted(FAMILIES)


def built(folder: Path, family: str, **sections: Any) -> tuple[TrainingParts, Any]:
    run = media_runs.make(folder, family, **sections)
    parts = build(run)
    parts.trainee.train()
    if family == "gemma3":  # begins as zeros
        torch.manual_seed(0)
        torch.nn.init.normal_(
            parts.trainee.towers.multi_modal_projector.mm_input_projection_weight.data
        )
    return parts, run


def collated(parts: TrainingParts, run: Any) -> tuple[EmbeddingBatch, list[Prompt]]:
    collator = Collator(parts.tokens, parts.settings, run.data, senses=parts.trainee.senses)
    rows = list(load(run.data.embedding[0], "embedding"))[:8]
    chats = list(load(run.data.generative[0], "generative"))[:6]
    batch = collator.embedding(rows, [Random(number) for number in range(len(rows))])
    samples = [collator.chat(row) for row in chats]
    return batch, [sample for sample in samples if sample is not None]


def facade(parts: TrainingParts) -> GritLM:
    trainee = parts.trainee
    return GritLM.around(
        trainee.causal, parts.tokenizer, parts.settings, trainee.projection, senses=trainee.senses
    )


def contrastive(batch: EmbeddingBatch) -> Any:
    positives = batch.keys.first_P.nonzero()[:, 0]
    return partial(losses.contrastive, temperature=0.1, positives=positives)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("attn", ["bbcc", "cccc"])
@pytest.mark.parametrize("family", EVERY)
def test_a_mixed_batch_is_embedded_as_it_is_served(tmp_path, family, attn):
    parts, run = built(tmp_path, family, model={"attn": attn})
    batch, _ = collated(parts, run)
    prompts = [*batch.queries, *batch.passages]
    assert 0 < sum(bool(prompt.media) for prompt in prompts) < len(prompts)
    with torch.no_grad():
        ours = parts.trainee("embed", prompts)
    served = facade(parts).encoder
    theirs = torch.cat([served.vectors([prompt]) for prompt in prompts])
    assert float((ours - theirs).abs().max()) <= BOUND


@pytest.mark.parametrize("family", EVERY)
def test_answers_are_trained_as_they_are_served_and_packed_as_alone(tmp_path, family):
    parts, run = built(tmp_path, family)
    _, samples = collated(parts, run)
    trainee = parts.trainee
    assert 0 < sum(bool(sample.media) for sample in samples) < len(samples)
    lm = facade(parts).lm
    likelihoods = []
    with torch.no_grad():
        for sample in samples:
            logits = lm.logits(torch.tensor([sample.ids]), media=sample.media)[0].log_softmax(-1)
            ((start, end),) = sample.trained
            at = torch.arange(start - 1, end - 1)
            likelihoods.append(logits[at, torch.tensor(sample.ids[start:end])])
    expected = -torch.cat(likelihoods).mean()
    count = sum(len(each) for each in likelihoods)

    def loss(rows: packing.PackedBatch) -> Tensor:
        assert losses.divisor_of(rows.labels_BL, kind="mixed") == count
        return trainee("write", rows, Weights(torch.full((count,), 1.0 / count)))[0]

    alone = loss(packing.padded(samples))
    slopes = gradients_of(alone, trainee)
    together = packing.packed(samples, capacity=400)
    assert len(together.ids_BL) < len(samples)
    assert run.training.packing
    joined = loss(together)
    for found in (alone, joined):
        assert abs(float(found.detach()) - float(expected)) <= BOUND
    assert distance(gradients_of(joined, trainee), slopes) <= BOUND


def gradients_of(loss: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    loss.backward()
    return gradients(module)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", EVERY)
def test_towers_are_frozen_and_projectors_trained(tmp_path, family, lora):
    parts, run = built(tmp_path, family, model={"lora": lora})
    trainee = parts.trainee
    names = {n for n, p in trainee.towers.named_parameters() if p.requires_grad}
    assert names
    words = ("connector", "multi_modal_projector", "image_newline", "merger")
    assert all(any(word in name for word in words) for name in names)
    assert any(not p.requires_grad for p in trainee.towers.parameters())
    batch, samples = collated(parts, run)
    groups = (batch.queries, batch.passages)
    gradcache.backward(partial(trainee, "embed"), groups, contrastive(batch), budget=200)
    moved = {n for n, slope in gradients(trainee.towers).items() if slope.abs().max() > 0}
    assert names - moved <= {"image_newline"}  # of images cut into tiles
    rows = packing.padded(samples)
    count = losses.divisor_of(rows.labels_BL, kind="mixed")
    loss, _ = trainee("write", rows, Weights(torch.ones(count)))
    found = gradients_of(loss, trainee)
    trained = {n for n, p in trainee.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    assert any(slope.abs().max() > 0 for n, slope in found.items() if n.startswith("towers."))


@pytest.mark.parametrize("budget", [1, 150, 400])
@pytest.mark.parametrize("kept", [0, 300])
@pytest.mark.parametrize("family", ["smolvlm", "qwen2_audio", "qwen3_vl"])
def test_gradcache_over_a_mixed_batch_equals_one_big_batch(tmp_path, family, budget, kept):
    parts, run = built(tmp_path, family, model={"lora": True})
    batch, _ = collated(parts, run)
    trainee = parts.trainee
    for name, parameter in trainee.named_parameters():  # LoRA begins at zero
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    embed = partial(trainee, "embed")
    loss = contrastive(batch)(embed(batch.queries), embed(batch.passages))
    loss.backward()
    expected = gradients(trainee)
    groups = (batch.queries, batch.passages)
    ours = gradcache.backward(embed, groups, contrastive(batch), budget=budget, kept=kept)
    assert abs(float(ours) - float(loss.detach())) <= EXACT * abs(float(ours))
    assert distance(gradients(trainee), expected) <= BOUND


def test_a_base_with_small_senses_is_refused(tmp_path, monkeypatch):
    run = runs.make(tmp_path)
    monkeypatch.setattr(default_model, "ensure", lambda: Path(run.model.base))
    for name in ("default", run.model.base):
        towers.require_no_small_senses(name, run.model.base)
    with pytest.raises(InputError, match=r"base = 'senses' has projectors .* base = 'default'"):
        build(runs.make(tmp_path, model={"base": "senses"}))
    folder = Path(run.model.base) / "senses"
    folder.mkdir()
    (folder / "sound.safetensors").touch()
    with pytest.raises(InputError, match=r"has projectors .* a vision-language checkpoint"):
        build(run)


def test_features_of_frozen_projectors_are_computed_once(tmp_path):
    parts, run = built(tmp_path, "smolvlm", model={"freeze": ("towers.",), "lora": True})
    trainee = parts.trainee
    assert not trainee.trains_towers
    batch, _ = collated(parts, run)
    calls = []
    trainee.towers.connector.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = trainee("embed", batch.passages)
        count = len(calls)
        again = trainee("embed", batch.passages)
    assert count == len(calls) == len({m.placeholders for p in batch.passages for m in p.media})
    assert torch.equal(first, again)
    fresh = torch.cat([facade_of(parts).vectors([prompt]) for prompt in batch.passages])
    assert float((first - fresh).abs().max()) <= BOUND


def facade_of(parts: TrainingParts) -> Any:
    kept = parts.trainee.senses
    whole = GritLM.around(
        parts.trainee.causal, parts.tokenizer, parts.settings, senses=kept._senses
    )
    return whole.encoder


def test_the_projector_alone_can_be_trained(tmp_path):
    parts, run = built(tmp_path, "smolvlm", model={"freeze": ("model.",)})
    names = {n for n, p in parts.trainee.named_parameters() if p.requires_grad}
    assert names
    assert all("connector" in name for name in names)
    batch, _ = collated(parts, run)
    groups = (batch.queries, batch.passages)
    gradcache.backward(partial(parts.trainee, "embed"), groups, contrastive(batch), budget=100)
    assert any(slope.abs().max() > 0 for slope in gradients(parts.trainee).values())


def test_towers_are_trained_when_asked(tmp_path):
    parts, _ = built(tmp_path, "smolvlm", model={"lora": True, "train_towers": True})
    assert all(p.requires_grad for p in parts.trainee.towers.parameters())
    assert not any(module.training for module in parts.trainee.towers.modules())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"distribution": "fsdp"}}, "distribution = 'fsdp' is not taken"),
        ({"loss": {"kl_weight": 0.1}}, "kl_weight is not taken"),
        ({"loss": {"question_weight": 0.1}}, "question_weight is not taken"),
        ({"loss": {"teacher": "x"}}, "teacher is not taken"),
    ],
)
def test_settings_for_texts_only_are_refused(tmp_path, sections, message):
    with pytest.raises(InputError, match=message):
        build(media_runs.make(tmp_path, "smolvlm", **sections))


@pytest.mark.parametrize("family", EVERY)
def test_texts_are_packed_as_alone(tmp_path, family):
    """Also where three-dimensional positions hide where a sample starts."""
    parts, run = built(tmp_path, family)
    _, samples = collated(parts, run)
    texts = [sample for sample in samples if not sample.media]
    count = sum(end - start for sample in texts for start, end in sample.trained)
    weights = Weights(torch.full((count,), 1.0 / count))
    rows = (packing.padded(texts), packing.packed(texts, capacity=400))
    assert [len(each.ids_BL) for each in rows] == [len(texts), 1]
    with torch.no_grad():
        alone, together = (parts.trainee("write", each, weights)[0] for each in rows)
    assert abs(float(alone) - float(together)) <= EXACT * float(alone)


@pytest.mark.parametrize("family", EVERY)
def test_bfloat16_gives_nearly_the_same(tmp_path, family):
    """With LoRA: frozen weights in bfloat16, trained projectors in float32, autocast."""
    found = []
    for bf16 in (False, True):
        parts, run = built(tmp_path, family, model={"lora": True}, training={"bf16": bf16})
        batch, samples = collated(parts, run)
        embed = partial(parts.trainee, "embed")
        groups = (batch.queries, batch.passages)
        contrasted = gradcache.backward(embed, groups, contrastive(batch), budget=200)
        rows = packing.packed(samples, capacity=400)
        count = losses.divisor_of(rows.labels_BL, kind="mixed")
        written, _ = parts.trainee("write", rows, Weights(torch.full((count,), 1.0 / count)))
        written.backward()
        slopes = gradients(parts.trainee)
        assert all(
            slope.dtype == torch.float32 and slope.isfinite().all() for slope in slopes.values()
        )
        found.append((float(contrasted), float(written.detach())))
    for exact, rounded in zip(*found, strict=True):
        assert abs(rounded - exact) <= 0.1 * exact
