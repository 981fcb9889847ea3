"""Write a model, a store and a training run with an earlier version of gritlm.

It ran once, with the version that README.md names, in a checkout of that version:
``PYTHONPATH=src:. python write.py FOLDER``. Its imports are those of that version.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXTS = (
    "Water boils at 100 degrees and freezes at 0 degrees.",
    "Cats sleep most of the day. Dogs like long walks in the park.",
    "Ann has a red ball, Bob has a blue car.",
)
QUESTION = "What colour is the ball?"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PAIRS = [
    {
        "query": ["find the fact", f"what of {i} cats"],
        "pos": [f"{i} cats sleep {i * 7} hours"],
        "neg": [f"water boils at {i}"],
    }
    for i in range(16)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"say {i}"},
            {"role": "assistant", "content": f"the quick fox {i}"},
        ]
    }
    for i in range(16)
]


def model(folder: Path) -> None:
    """A Llama of two layers and 16 dimensions, with a tokenizer of bytes and a few pairs."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*TEXTS] * 4, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=280,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)


def store() -> dict[str, object]:
    """Three documents with blocks of both kinds, and the answers to a question."""
    from gritlm import GritLM
    from gritlm.rag.engine import RagEngine

    documents = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    lm = GritLM("model", dtype="float32", device="cpu")
    answers = {}
    with RagEngine.open("store", lm, disk_bytes=2**20) as engine:
        engine.add(documents, kinds=("bidirectional", "causal"))
        for mode in ("none", "doc", "query-doc"):
            answer = engine.answer(QUESTION, mode=mode, blocks="causal", top_k=2, max_new_tokens=12)
            sources = [source.document_id for source in answer.sources]
            answers[mode] = {"text": answer.text, "sources": sources}
    # Measurements of one machine, and locks.
    for name in ("parity.json", "cost.json", "kv/writer.lock", "kv/index.lmdb/lock.mdb"):
        Path("store", name).unlink(missing_ok=True)
    return answers


def run() -> list[dict[str, float]]:
    """A run of four steps with a checkpoint after the second one, and the losses of its steps."""
    from gritlm.train.config import Data, Loss, Model, Run, Source, Training
    from gritlm.train.trainer import train

    for name, rows in (("pairs.jsonl", PAIRS), ("chats.jsonl", CHATS)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(
        Run(
            training=Training(
                output_dir="run",
                max_steps=4,
                per_device_train_batch_size=4,
                per_device_generative_bs=2,
                learning_rate=1e-3,
                warmup_steps=0,
                bf16=False,
                save_steps=2,
                device="cpu",
            ),
            data=Data(
                embedding=(Source("pairs.jsonl"),),
                generative=(Source("chats.jsonl"),),
                query_max_len=48,
                passage_max_len=48,
                generative_max_len=96,
            ),
            model=Model(base="model"),
            loss=Loss(temperature=0.1),
        )
    )
    entries = [json.loads(line) for line in Path("run", "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss_emb", "loss_gen", "grad_norm")
    return [{name: entry[name] for name in kept} for entry in entries if "loss" in entry]


def vectors(folder: str) -> list[list[float]]:
    from gritlm import GritLM

    found = GritLM(folder, dtype="float32", device="cpu").encode(list(TEXTS))
    return [[float(f"{value:.7g}") for value in row] for row in np.asarray(found)]


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)  # no path of the machine gets into a file
    model(Path("model"))
    written = {"answers": store(), "losses": run()}
    written["vectors"] = {each: vectors(each) for each in ("model", "run", "run/checkpoint-000002")}
    Path("written.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
