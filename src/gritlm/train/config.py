"""Settings of a training run: one frozen dataclass for each section of its TOML file.

Names follow the GritLM reference and transformers' ``TrainingArguments`` where these have one.
Invalid values raise an error here, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gritlm import config
from gritlm.errors import InputError
from gritlm.prompts import RAG_FORMS, READ_AGAIN, RagMode

Mode = Literal["unified", "embedding", "generative"]
BlockKind = Literal["bidirectional", "causal"]

RAG_MODES = tuple(RAG_FORMS)
BLOCK_KINDS: tuple[BlockKind, ...] = ("bidirectional", "causal")


def _at_least(owner: object, least: float, *names: str, above: bool = False) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not (value > least if above else value >= least):
            wanted = f"a number above {least}" if above else f"at least {least}"
            raise InputError(f"{name} = {value}; expected {wanted}")


@dataclass(frozen=True)
class SourceConfig:
    """Source of rows for one stream: a file, a folder or a dataset of the hub.

    Attributes:
        path: JSONL, JSON or Parquet file, a folder of these, or the id of a dataset on the hub.
        weight: sampling weight among the sources of the stream; None: the number of rows.
        cap: maximum number of rows; the first ones are used.
        instruction: in plain words, for queries (first texts of scored pairs) without their own
            instruction.
        passage_instruction: the same for passages (second texts of scored pairs).
        split: split of a dataset on the hub.
        name: name in logs and the model card; None: the last part of the path, without suffix.
        questions: whether the queries are questions; with ``loss.question_weight`` their likelihood
            after their own passage is trained to be higher than after their hard negatives.
        media_folder: folder of relative paths to images and sounds in rows; None: that of the data
            file.
        media_web: whether rows may name images and sounds by addresses of the web; private
            addresses are always refused.
    """

    path: str
    weight: float | None = None
    cap: int | None = None
    instruction: str = ""
    passage_instruction: str = ""
    split: str = "train"
    name: str | None = None
    questions: bool = False
    media_folder: str | None = None
    media_web: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 0, "weight", above=True)
        _at_least(self, 1, "cap")

    @property
    def title(self) -> str:
        last = Path(self.path)
        while last.suffix.lower() in (".gz", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"):
            last = last.with_suffix("")
        return self.name or last.name or self.path


@dataclass(frozen=True)
class ModelConfig:
    """Model to train: base, adapter, embedding settings, trained parameters.

    Attributes:
        base: folder or hub id; ``default`` or None for the default model with its adapter, ``base``
            for its base weights alone.
        adapter: LoRA adapter to start from; a base may bring its own. Training continues it with
            ``lora`` or ``qlora``; otherwise it is merged into the base first.
        attn, pooling_method, normalized, projection, embed_eos, template, query_instruction: as in
            ``gritlm.json``; None: the value of the base.
        attn_implementation: attention of transformers; None: its default. ``eager`` can be faster
            on a CPU if all texts are short. ``gritlm_both`` embeds texts without padding (on a
            GPU in half precision with one kernel) and uses ``sdpa`` for generation.
        lora: train adapters instead of the weights.
        qlora: train adapters over a base in 4 bits (bitsandbytes, GPU).
        use_dora: train DoRA's magnitudes along with the adapters.
        lora_target_modules: ``all-linear`` (without the LM head) or names of modules, such as
            ``lm_head`` and ``embed_tokens``.
        lora_modules_to_save: names of modules that are trained in full and saved with the adapter.
        freeze: substrings of parameter names; parameters with a matching name are not trained.
        train_towers: train the towers of a model that reads images or sound too; otherwise they
            are frozen, and their projectors are trained.
    """

    base: str | None = None
    adapter: str | None = None
    attn: Literal["bbcc", "cccc", "bb", "cc"] | None = None
    pooling_method: Literal["mean", "weightedmean", "lasttoken", "cls"] | None = None
    normalized: bool | None = None
    projection: int | None = None
    embed_eos: str | None = None
    template: Literal["auto", "gritlm", "tokenizer"] | None = None
    query_instruction: str | None = None
    attn_implementation: str | None = None
    lora: bool = False
    qlora: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    lora_modules_to_save: tuple[str, ...] = ()
    use_dora: bool = False
    freeze: tuple[str, ...] = ()
    train_towers: bool = False

    def __post_init__(self) -> None:
        _at_least(self, 1, "lora_r", "lora_alpha", "projection")
        _at_least(self, 0, "lora_dropout")

    @property
    def adapted(self) -> bool:
        return self.lora or self.qlora


@dataclass(frozen=True)
class DataConfig:
    """Sources of rows and their maximum lengths in tokens.

    Attributes:
        embedding, generative, rag: sources; ``rag`` rows are part of the generative stream.
        train_group_size: passages for each query: its positive, then negatives.
        same_source_batches: take all embedding rows of a step from one source. Required if scored
            pairs are one of several sources.
        deduplicate: use only the first of equal rows within a source.
        skip_bad_rows: skip, count and list unusable rows; otherwise the first one raises an error
            before the run starts.
        mask_false_negatives: exclude from the negatives of a query all passages that are (nearly)
            equal to one of its positives, and positives of the same query in other rows.
        check_media: decode every image and sound once before the start, so that a broken one ends
            the run there; otherwise only their files are looked for.
    """

    embedding: tuple[SourceConfig, ...] = ()
    generative: tuple[SourceConfig, ...] = ()
    rag: tuple[SourceConfig, ...] = ()
    query_max_len: int = 256
    passage_max_len: int = 2048
    generative_max_len: int = 2048
    train_group_size: int = 2
    same_source_batches: bool = True
    deduplicate: bool = True
    skip_bad_rows: bool = False
    mask_false_negatives: bool = True
    check_media: bool = True

    def __post_init__(self) -> None:
        lengths = ("query_max_len", "passage_max_len", "generative_max_len")
        _at_least(self, 2, *lengths)
        _at_least(self, 1, "train_group_size")


@dataclass(frozen=True)
class RagConfig:
    """Conversion of RAG rows to samples; mode and block kind are drawn each time a row is read.

    Attributes:
        modes: parts of the prompt that are KV blocks.
        blocks: attention within a block.
        max_documents: maximum number of documents of a sample; the gold one is always included.
        read_again: number of tokens at the start of each block except the first that are
            recomputed with attention to all tokens before them; the default is that of serving.
        question_rows: maximum number of rows of a step and process whose question is read after
            each of a few passages (``loss.question_weight``).
        question_passages: maximum number of these passages: the positive and hard negatives.
    """

    modes: tuple[RagMode, ...] = RAG_MODES
    blocks: tuple[BlockKind, ...] = BLOCK_KINDS
    max_documents: int = 5
    read_again: int = READ_AGAIN
    question_rows: int = 8
    question_passages: int = 3

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_documents", "question_rows")
        _at_least(self, 2, "question_passages")
        _at_least(self, 0, "read_again")
        if not self.modes or not self.blocks:
            raise InputError("modes and blocks are lists with at least one entry each")


@dataclass(frozen=True)
class LossConfig:
    """Loss of a step: contrastive (CoSENT on scored pairs) plus generative, with optional terms.

    Attributes:
        temperature: temperature of the contrastive loss.
        negatives_cross_device: use the passages of all processes as negatives.
        earlier_passages: number of passages of earlier steps whose vectors, as they were then, are
            further negatives (XBM). A resumed run begins without them.
        symmetric: add the loss of each positive against all queries.
        matryoshka_dims: numbers of leading dimensions; the contrastive loss is the weighted sum of
            the losses on each of them (list the full size too).
        scored_temperature, scored_weight: settings of CoSENT, which replaces the contrastive loss
            in steps of scored pairs (``matryoshka_dims`` and ``negatives_cross_device`` apply to
            both).
        teacher: sentence-transformers model whose similarities are distilled.
        teacher_weight: weight of the distillation loss.
        teacher_temperature, student_temperature: temperatures of the two sides of the
            distillation; None: ``temperature``.
        loss_gen_type, loss_gen_factor: see :func:`gritlm.train.objectives.losses.token_weights`.
        kl_weight: weight of the KL divergence from the starting model on generative rows.
        rag_kl_weight: weight of the KL divergence, on RAG rows, from the same model reading the
            same tokens without blocks.
        question_weight: weight of the question loss: the cross-entropy of the right passage among
            the passages that a question was read after, each alone. The score of a passage is the
            question's mean log-likelihood per token.
        question_temperature: temperature of the question loss.
    """

    temperature: float = 0.02
    negatives_cross_device: bool = True
    earlier_passages: int = 0
    symmetric: bool = False
    contrastive_weight: float = 1.0
    matryoshka_dims: tuple[int, ...] = ()
    matryoshka_weights: tuple[float, ...] = ()
    scored_temperature: float = 0.05
    scored_weight: float = 1.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    teacher_temperature: float | None = None
    student_temperature: float | None = None
    loss_gen_type: Literal["mixed", "token", "sample"] = "mixed"
    loss_gen_factor: float = 1.0
    kl_weight: float = 0.0
    rag_kl_weight: float = 0.0
    question_weight: float = 0.0
    question_temperature: float = 0.2

    def __post_init__(self) -> None:
        sides = ("teacher_temperature", "student_temperature", "question_temperature")
        _at_least(self, 0, "temperature", "scored_temperature", *sides, above=True)
        _at_least(self, 0, "contrastive_weight", "scored_weight", "teacher_weight")
        _at_least(self, 0, "kl_weight", "rag_kl_weight", "question_weight", "earlier_passages")
        if self.matryoshka_weights and len(self.matryoshka_weights) != len(self.matryoshka_dims):
            raise InputError(
                f"{len(self.matryoshka_weights)} matryoshka_weights for "
                f"{len(self.matryoshka_dims)} matryoshka_dims; expected one for each, or none"
            )


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out rows, evaluated every ``eval_steps`` steps and at the end."""

    embedding: tuple[SourceConfig, ...] = ()
    generative: tuple[SourceConfig, ...] = ()
    eval_steps: int | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "eval_steps")


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run, optimizer, batch sizes, checkpoints and hardware.

    Attributes:
        output_dir: folder of checkpoints and the trained model.
        mode: both objectives (``unified``) or one of them.
        max_steps: optimizer steps; None: ``num_train_epochs`` over the embedding rows (over the
            generative rows in mode ``generative``).
        per_device_train_batch_size, per_device_generative_bs: rows per process; a step has
            ``gradient_accumulation_steps`` times as many. All embedding rows of a step are
            negatives of each other, and ``token_budget`` bounds the memory of either.
        token_budget: maximum number of tokens whose graphs are in memory together. Rows are grouped
            by length under it, and the rest is read twice (GradCache). None: 4,096 on a CPU,
            16,384 on a GPU, and more if the lower layers are frozen.
        packing: put several generative samples into a row of ``generative_max_len`` tokens.
        warmup_steps: number of steps, or the share of all steps if below 1.
        bf16: autocast to bfloat16; None: if the hardware multiplies bfloat16.
        distribution: strategy under torchrun: ``ddp`` or ``fsdp`` (FSDP2: sharded weights).
        sharded_checkpoints: let each process write its part; a resumed run may have another number
            of processes.
        save_merged: write full weights with the LoRA adapter merged, instead of the adapter.
        resume_from_checkpoint: a checkpoint folder, or true for the newest one in ``output_dir``.
        overwrite_output_dir: replace a run that ``output_dir`` already holds.
        use_liger: use Liger kernels (GPU; needs liger-kernel).
        timeout_s: seconds after which a process that waits for another one stops with an error.
    """

    output_dir: str
    mode: Mode = "unified"
    max_steps: int | None = None
    num_train_epochs: float = 1.0
    per_device_train_batch_size: int = 32
    per_device_generative_bs: int = 8
    gradient_accumulation_steps: int = 1
    token_budget: int | None = None
    packing: bool = True
    learning_rate: float = 2e-5
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: float = 0.03
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    seed: int = 42
    logging_steps: int = 1
    save_steps: int | None = None
    save_total_limit: int | None = 2
    sharded_checkpoints: bool = False
    save_merged: bool = False
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    resume_from_checkpoint: bool | str = False
    overwrite_output_dir: bool = False
    distribution: Literal["ddp", "fsdp"] = "ddp"
    use_liger: bool = False
    device: str | None = None
    timeout_s: float = 600

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_steps", "per_device_train_batch_size", "per_device_generative_bs")
        _at_least(self, 1, "gradient_accumulation_steps", "token_budget", "logging_steps")
        _at_least(self, 1, "save_steps", "save_total_limit")
        _at_least(self, 0, "num_train_epochs", "learning_rate", "timeout_s", above=True)
        _at_least(self, 0, "warmup_steps", "weight_decay", "max_grad_norm")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run: the TOML file of ``gritlm train``."""

    training: TrainingConfig
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rag: RagConfig = field(default_factory=RagConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.embeds and not self.data.embedding:
            raise InputError(f"mode = {self.training.mode} needs [[data.embedding]] sources")
        if self.writes and not (self.data.generative or self.data.rag):
            raise InputError(f"mode = {self.training.mode} needs [[data.generative]] sources")

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
        """Read the settings of a run.

        Args:
            path: TOML file of ``gritlm train``.
            overrides: assignments ``section.key=value``; later ones take precedence.

        Raises:
            InputError: unknown key or invalid value; the message names place and section.
        """
        return config.read(path, cls, overrides)

    @property
    def embeds(self) -> bool:
        """Whether the run trains the embedding objective."""
        return self.training.mode != "generative"

    @property
    def writes(self) -> bool:
        """Whether the run trains the generation objective."""
        return self.training.mode != "embedding"
