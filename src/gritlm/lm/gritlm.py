"""GritLM, the main class: embeds, compares and generates text with a single model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gritlm.errors import (
    InputError,
    ModeError,
    ModelError,
    UnknownArgumentError,
    at_least_one,
    choice,
)
from gritlm.lazy import collection_paused
from gritlm.lm.adapters.shared import AdapterChoice, ModelParts, SharedBase, require_same_tokens
from gritlm.lm.chat import Message, chat_ids
from gritlm.lm.encoder import EncodeOptions, Encoder
from gritlm.lm.generator import TextStream, complete, own_blocks
from gritlm.lm.grammar.compiler import Grammar, GrammarCompiler
from gritlm.lm.grammar.formats import OutputFormat
from gritlm.lm.hf_generate import hf_generate
from gritlm.lm.hub import checkpoint
from gritlm.lm.hub.load import load
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.hub.model_config import MODES, ModelSettings
from gritlm.lm.hub.placement import Placement
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.media.files import LOCAL, MediaRules
from gritlm.lm.media.inputs import Parts
from gritlm.lm.media.media_chat import chat_prompt, has_parts
from gritlm.lm.media.senses import KINDS, Senses
from gritlm.lm.media.sequences import as_inputs, document_inputs, is_single
from gritlm.lm.media.towers.projector_loading import with_projectors
from gritlm.lm.quantization.layers import is_quantized, quantized_parameters
from gritlm.lm.sampling import SamplingOverrides, SamplingParams, override
from gritlm.lm.self_check import require_numbers, require_views
from gritlm.lm.tokens import Prompt, SegmentTokenizer, as_texts
from gritlm.lm.unified import UnifiedLM
from gritlm.lm.vectors import as_rows, handed_out, normalise, truncated
from gritlm.prompts import gritlm_instruction

if TYPE_CHECKING:
    from gritlm.lm.hub.formats.hub_card import CardFacts
    from gritlm.lm.hub.formats.upload import ExportedModel, ExportForm

log = logging.getLogger(__name__)

Vectors = NDArray[Any] | Tensor

_CHAT = SamplingParams(max_new_tokens=256)


class GritLM:
    """A language model that embeds (bidirectional attention) and generates (causal attention).

    Args:
        model_name_or_path: hub id or checkpoint folder of a decoder or an adapter; None or
            ``"default"`` for the default model, whose base is downloaded at the first use;
            ``"base"`` for that base without its embedding adapter; ``"senses"`` for the default
            model that also reads images and sound.
        mode: ``unified``, ``embedding`` (loads no LM head) or ``generative``.
        pooling_method: ``mean``, ``weightedmean``, ``lasttoken`` or ``cls``. The default of this
            and of the next four arguments is the value in the checkpoint's ``gritlm.json``, else
            that of the reference (mean, True, no projection, bbcc, no string).
        normalized: whether vectors have length 1.
        projection: dimension to which the states are projected before pooling.
        attn: ``bbcc``, ``cccc``, ``bb`` or ``cc``: two letters for embedding, two for generation;
            b is bidirectional, c is causal.
        embed_eos: string appended to every text to embed.
        device: device of the model; None for the best one available.
        adapter: folder or hub id of a PEFT adapter, merged into the weights when loading. It
            replaces the adapter of the default model, whose name is ``"default"``.
        adapters: folder or hub id of further adapters of the same base, by name; see
            :meth:`with_adapter`. No adapter is merged then, and the base is in memory once.
        embed_adapter: folder or hub id of an adapter that embeds only: the model generates as it
            does without, and its vectors are those of the adapter. It is not merged. KV blocks
            come from causal passes of the model that generates.
        quantization: format of quantised weights: ``int8`` or ``int4`` on a CPU; ``int8``, ``nf4``
            or ``fp8`` on a GPU. Adapters are merged before; None keeps the weights as they are.
        tensor_parallel_size: number of processes that share each layer, started by torchrun.
        max_model_len: maximum tokens of a text, or of a prompt and its answer; None for those that
            the model was built for.
        compile: whether to compile decoding steps, which makes the start slower and each step
            faster: by numba on a CPU for Llama and Mistral, else by torch (CUDA graphs on a GPU).
        from_pretrained: ``dtype`` (or ``torch_dtype``; None for the fastest on this machine),
            ``device_map``, ``quantization_config``, ``attn_implementation``, ``revision``, ...

    Raises:
        ModelError: for a checkpoint that cannot be loaded or whose attention cannot be changed.
        UnknownArgumentError: for an unknown keyword argument.
        InputError: for a value out of range.

    Attributes:
        media_rules: limits on images and sound, and where they may come from.
    """

    _placement = Placement()  # that of a model in memory
    media_rules: MediaRules = LOCAL

    @collection_paused()
    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        mode: str = "unified",
        pooling_method: str | None = None,
        normalized: bool | None = None,
        projection: int | None = None,
        attn: str | None = None,
        embed_eos: str | None = None,
        device: str | torch.device | None = None,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        embed_adapter: str | Path | None = None,
        quantization: str | None = None,
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        compile: bool = False,
        **from_pretrained: Any,
    ) -> None:
        choice(mode, MODES, name="mode")
        source, adapter = checkpoint.resolve(model_name_or_path, adapter)
        changes = {
            "pooling_method": pooling_method,
            "normalized": normalized,
            "projection": projection,
            "attn": attn,
            "embed_eos": embed_eos,
        }
        over_base = AdapterChoice.of(adapter, adapters, embed_adapter, mode=mode)
        placement = Placement(device, quantization, tensor_parallel_size)
        placement.require_plain(compiled=compile, unmerged=over_base is not None)
        loaded = load(
            source,
            mode=mode if over_base is None else "unified",
            placement=placement,
            dtype=_one_dtype(from_pretrained),
            adapter=adapter if over_base is None else None,
            options=from_pretrained,
        )
        loaded = with_projectors(loaded, model_name_or_path, source)
        if over_base is not None:
            base = SharedBase(
                source,
                loaded,
                mode=mode,
                compiled=compile,
                longest=max_model_len,
                changes=changes,
                options=from_pretrained,
            )
            self._assemble_family(base, over_base)
            return
        self.source = source
        self.adapter = adapter
        self.dtype_reason = loaded.dtype_reason
        self._placement = placement
        with explained(source):
            lm = loaded.unified(compiled=compile, longest=max_model_len)
            self._assemble_alone(lm, loaded.tokenizer, loaded.settings.but(**changes), mode)

    @classmethod
    def around(
        cls,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        settings: ModelSettings,
        projection: nn.Linear | None = None,
        *,
        senses: Senses | None = None,
    ) -> GritLM:
        """Return a GritLM for a transformers model that is in memory, e.g. in training.

        Args:
            model: a decoder with its LM head; it is put into evaluation mode.
            tokenizer: its tokenizer.
            settings: its settings, with ``template`` other than ``auto``.
            projection: layer applied to the states before pooling; None for no projection.
            senses: towers by which the model reads images and sound; None for text only.
        """
        wrapped = cls.__new__(cls)
        wrapped.source = "a model in memory"
        wrapped.adapter = None
        wrapped.dtype_reason = "as handed in"
        lm = UnifiedLM(model, senses=senses)
        wrapped._assemble(lm, tokenizer, settings, projection, "unified")
        return wrapped

    def _assemble(
        self,
        lm: UnifiedLM,
        tokenizer: PreTrainedTokenizerBase,
        settings: ModelSettings,
        projection: nn.Linear | None,
        mode: str,
    ) -> None:
        self.lm = lm
        self.tokenizer = tokenizer
        self.settings = settings
        self.mode = mode
        self.projection = projection
        self._tokens = SegmentTokenizer(tokenizer)
        self._encoder = Encoder(lm, self._tokens, settings, projection)
        self._lock = threading.Lock()
        self._grammars: GrammarCompiler | None = None
        self._warned = settings.trained_to_embed is not False
        self._base: SharedBase | None = None
        self._choice = AdapterChoice()
        self._relatives: dict[str | None, GritLM] = {}

    def _assemble_alone(
        self,
        lm: UnifiedLM,
        tokenizer: PreTrainedTokenizerBase,
        settings: ModelSettings,
        mode: str,
    ) -> None:
        """Check a model that shares no base, and assemble it with its projection."""
        if mode != "generative" and not settings.embeds_causally:
            require_views(lm)
        require_numbers(lm)
        head = checkpoint.projection([self.adapter, self.source], settings, lm)
        self._assemble(lm, tokenizer, settings, head, mode)

    def _assemble_family(self, base: SharedBase, chosen: AdapterChoice) -> None:
        """Assemble the models of all adapters over a shared base."""
        self._assemble_over(base, chosen, {None: self})
        for name in self.adapters:
            self.with_adapter(name)

    def _assemble_over(
        self, base: SharedBase, chosen: AdapterChoice, relatives: dict[str | None, GritLM]
    ) -> None:
        """Assemble the model from a shared base and adapters that stay unmerged.

        Args:
            base: the base.
            chosen: the adapters.
            relatives: the models over this base by the name of their adapter, which all share.
        """
        parts = base.parts(chosen.adapter)
        self.source = base.source
        self.adapter = parts.adapter
        self.dtype_reason = base.dtype_reason
        self._assemble(parts.lm, parts.tokenizer, parts.settings, parts.projection, base.mode)
        self._base = base
        self._choice = chosen
        self._relatives = relatives
        if chosen.embed_adapter is not None:
            self._embed_with(base.parts(chosen.embed_adapter))

    def _embed_with(self, parts: ModelParts) -> None:
        """Embed with another model of the same base, and generate as before."""
        require_same_tokens(parts, self.tokenizer)
        # A calibration holds for the weights that embed and generate together.
        self.settings = replace(parts.settings, template=self.settings.template, fusion=None)
        self.projection = parts.projection
        self._encoder = Encoder(
            parts.lm, self._tokens, self.settings, parts.projection, generating=self.lm
        )
        self._warned = self.settings.trained_to_embed is not False

    @property
    def shares_embedding_pass(self) -> bool:
        """Whether the weights that embed are those that generate: False with an adapter that
        embeds only, whose passes make no KV blocks to generate from."""
        return self._encoder.shares_pass

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that :meth:`with_adapter` takes."""
        return tuple(self._choice.adapters)

    @property
    def embed_adapter(self) -> str | None:
        """Folder or hub id of the adapter that embeds only; None without one."""
        return self._choice.embed_adapter

    def with_adapter(self, name: str | None) -> GritLM:
        """Return the model with one of its adapters, over the same base in memory.

        The models are independent: they may be used from several threads, and each has its own
        chat template, tokens and settings.

        Args:
            name: name of an adapter in the argument ``adapters`` of :class:`GritLM`; None for the
                model without any of these.

        Raises:
            InputError: for a name that no adapter has.
        """
        if self._base is None and name is None:
            return self
        if self._base is None:
            raise InputError(
                f"adapter {name!r}: this model was loaded without named adapters; pass them: "
                "GritLM(BASE, adapters={'law': 'runs/law'})"
            )
        chosen = self._choice.named(name)
        with self._base.lock:
            if name not in self._relatives:
                relative = GritLM.__new__(GritLM)
                relative._assemble_over(self._base, chosen, self._relatives)
                self._relatives[name] = relative
            return self._relatives[name]

    def shares_base_with(self, other: GritLM) -> bool:
        """Return whether two models are over the same base in memory."""
        return self is other or (self._base is not None and self._base is other._base)

    def encode(
        self,
        sentences: Any,
        *,
        batch_size: int = 256,
        max_length: int | None = None,
        instruction: str = "",
        embed_instruction: bool = False,
        get_cache: bool = False,
        convert_to_tensor: bool = False,
        recast: bool = False,
        add_special_tokens: bool = True,
        truncate_dim: int | None = None,
        precision: str = "float32",
        show_progress_bar: bool | None = None,
    ) -> Any:
        """Return the embeddings of texts, images and sounds, in their order.

        Args:
            sentences: a text, N texts, or N inputs with images and sound (see docs/senses.md).
            batch_size: maximum number of texts in a batch; a token budget limits it further.
            max_length: maximum tokens of a text with its header; truncation logs a warning.
            instruction: the formatted header, as ``gritlm_instruction("Retrieve ...")`` returns it.
            embed_instruction: whether to pool the tokens of the header too.
            get_cache: whether to also return a :class:`KVBlock` per text.
            convert_to_tensor: return a torch tensor on the model's device, not a numpy array.
            recast: return vectors in the dtype of the model (tensors only; numpy stays float32).
            add_special_tokens: whether to add the tokenizer's BOS.
            truncate_dim: number of dimensions to keep; vectors are normalised again.
            precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
            show_progress_bar: whether to show a bar; None shows it on a terminal after a second.

        Returns:
            (D,) or (N, D), in float32; with ``get_cache``, a pair ``(vectors, blocks)``.

        Raises:
            InputError: for an item that is empty, not a string, or without room after the header.
            ModeError: for a model loaded with ``mode="generative"``.
        """
        self.require_embedding()
        many, single = self._inputs(sentences)
        as_texts([instruction])
        options = EncodeOptions(
            batch_size=at_least_one(batch_size, name="batch_size"),
            max_length=self._length(max_length),
            instruction=instruction,
            embed_instruction=embed_instruction,
            add_special_tokens=add_special_tokens,
            get_cache=get_cache,
            progress=show_progress_bar,
            max_media_length=self._media_length(max_length),
            rules=self.media_rules,
        )
        vectors_ND, blocks = self._encoder.encode(many, options)
        vectors_ND = self._shortened(vectors_ND, truncate_dim)
        vectors_ND = vectors_ND.to(self.dtype) if recast else vectors_ND
        device = self.device if convert_to_tensor else None
        vectors = handed_out(vectors_ND, precision=precision, device=device)
        vectors = vectors[0] if single else vectors
        return (vectors, blocks) if get_cache else vectors

    def encode_queries(self, queries: Any, **options: Any) -> Any:
        """Encode queries: the same as :meth:`encode`, under the name that BEIR uses."""
        return self.encode(queries, **options)

    def encode_corpus(self, corpus: Any, **options: Any) -> Any:
        """Encode documents as :meth:`encode` does, with title and text joined by a space.

        Args:
            corpus: texts, ``{"title": ..., "text": ...}``, or other inputs of :meth:`encode`.
            options: arguments of :meth:`encode`.
        """
        return self.encode(document_inputs(corpus), **options)

    def encode_query(
        self, sentences: Any, *, instruction: str | None = None, **options: Any
    ) -> Any:
        """Encode queries as :meth:`encode` does, by default with the model's query instruction.

        Args:
            sentences: a query, or a sequence of queries.
            instruction: the formatted header; None for the query instruction of the model.
            options: other arguments of :meth:`encode`.
        """
        if instruction is None:
            instruction = gritlm_instruction(self.settings.query_instruction)
        return self.encode(sentences, instruction=instruction, **options)

    def encode_document(
        self, sentences: Any, *, instruction: str | None = None, **options: Any
    ) -> Any:
        """Encode documents as :meth:`encode_corpus` does, by default with an empty instruction.

        Args:
            sentences: texts, ``{"title": ..., "text": ...}``, or other inputs of :meth:`encode`.
            instruction: the formatted header; None for the header without an instruction.
            options: other arguments of :meth:`encode`.
        """
        header = gritlm_instruction() if instruction is None else instruction
        return self.encode_corpus(sentences, instruction=header, **options)

    def similarity(self, one: Vectors, other: Vectors) -> Tensor:
        """Return the cosine similarity (N, M) of each of N vectors with each of M vectors."""
        return normalise(as_rows(one)) @ normalise(as_rows(other)).T

    def similarity_pairwise(self, one: Vectors, other: Vectors) -> Tensor:
        """Return the cosine similarity (N,) of vector i of one with vector i of the other."""
        return (normalise(as_rows(one)) * normalise(as_rows(other))).sum(dim=-1)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        kv: KVBlock | None = None,
        stream: bool = False,
        sampling: SamplingParams | None = None,
        response_format: Mapping[str, Any] | None = None,
        **settings: Unpack[SamplingOverrides],
    ) -> str | Iterator[str]:
        """Answer a message or a conversation.

        Args:
            messages: a text, or ``{"role": "system" | "user" | "assistant", "content": ...}`` with
                a text, or a list of content parts with images and sounds.
            kv: KV block before the conversation, as ``encode(get_cache=True)`` returns it; it is
                moved to position 0.
            stream: whether to return an iterator over pieces of text instead of the text.
            sampling: length, temperature, stop strings and other settings of the answer; None for
                the likeliest token each time, at most 256 of them.
            response_format: format that the answer follows, such as ``{"type": "json_object"}``;
                see :meth:`grammar`.
            **settings: fields of :class:`SamplingParams` that replace those of ``sampling``, such
                as ``max_new_tokens``, ``temperature``, ``top_p``, ``seed``, ``stop``.

        Returns:
            The answer, or an iterator over its pieces.

        Raises:
            InputError: for a value out of range, or a prompt that is too long.
            UnknownArgumentError: for a setting that :class:`SamplingParams` does not have.
            CacheMismatchError: for a KV block of another model.
            ModeError: for a model loaded with ``mode="embedding"``.
        """
        self.require_head()
        params = override(sampling or _CHAT, settings, caller="GritLM.chat()")
        if params.logprobs is not None:
            raise InputError(
                f"logprobs is {params.logprobs}, but chat() reports no log-probabilities; "
                "leave it None"
            )
        output_format = OutputFormat.of(response_format or {"type": "text"})
        if output_format is not None:
            params = replace(params, mask=self.grammar(output_format).start)
        params.check(self.lm.vocabulary_size)
        self._require_seed(params)
        prompt = self.chat_prompt(messages, start=kv is None)
        prompt_ids = _text_ids(own_blocks(self.lm, kv), prompt)
        end_ids = params.all_end_ids(self.end_ids)
        tokens = complete(
            self.lm,
            prompt,
            kv=kv,
            sampler=params.sampler(prompt_ids=prompt_ids, end_ids=end_ids),
            max_new_tokens=params.max_new_tokens,
            end_ids=end_ids,
            lookup=params.lookup(prompt_ids),
        )
        pieces = TextStream.of(self.tokenizer, params).pieces(tokens)
        return pieces if stream else "".join(pieces)

    def chat_ids(self, messages: str | Sequence[Message], *, start: bool = True) -> list[int]:
        """Return the token ids of the prompt that :meth:`chat` makes of a conversation.

        Args:
            messages: a text, or ``{"role": "system" | "user" | "assistant", "content": str}``.
            start: False if a KV block comes before the conversation.

        Raises:
            InputError: for an invalid conversation.
        """
        return chat_ids(self._tokens, messages, template=self.settings.template, start=start)

    def chat_prompt(
        self, messages: str | Sequence[Mapping[str, Any]], *, start: bool = True
    ) -> Prompt:
        """Return the prompt that :meth:`chat` makes of a conversation, with images and sounds.

        Args:
            messages: as in :meth:`chat`.
            start: False if a KV block comes before the conversation.

        Raises:
            InputError: for an invalid conversation, or a part that the model does not read.
        """
        if not has_parts(messages):
            return Prompt(self.chat_ids(cast("Sequence[Message]", messages), start=start))
        return chat_prompt(
            self._tokens,
            cast("Sequence[Mapping[str, Any]]", messages),
            senses=self.lm.senses,
            template=self.settings.template,
            start=start,
            rules=self.media_rules,
        )

    def grammar(self, response_format: Mapping[str, Any] | OutputFormat) -> Grammar:
        """Compile the grammar of an output format, for ``SamplingParams(mask=grammar.start)``.

        Args:
            response_format: OpenAI's ``{"type": "json_object"}`` or ``{"type": "json_schema",
                "json_schema": {"schema": ...}}``; or ``{"type": "regex", "regex": ...}``, and so
                on for ``choice`` (a list of texts) and ``grammar`` (Lark or GBNF).

        Raises:
            InputError: for a format that cannot be compiled.
            MissingExtraError: when the extra ``grammar`` is not installed.
        """
        if not isinstance(response_format, OutputFormat):
            found = OutputFormat.of(response_format)
            if found is None:
                raise InputError(
                    "response_format is plain text, which has no grammar; leave it out"
                )
            response_format = found
        return self.grammar_compiler.compile(response_format)

    @property
    def grammar_compiler(self) -> GrammarCompiler:
        """Compiler of grammars for the tokenizer; it is made at the first use.

        Raises:
            MissingExtraError: when the extra ``grammar`` is not installed.
            ModelError: for a tokenizer or a model that grammars cannot be used with.
        """
        with self._lock:
            if self._grammars is None:
                self._grammars = GrammarCompiler(
                    self.tokenizer, self.lm.vocabulary_size, self.end_ids
                )
            return self._grammars

    def generate(
        self,
        inputs: Tensor | Mapping[str, Tensor] | None = None,
        *,
        kv: KVBlock | None = None,
        **options: Any,
    ) -> Any:
        """Generate token ids with the ``generate`` method of transformers.

        Args:
            inputs: token ids (B, L), or a mapping with ``input_ids`` and, optionally,
                ``attention_mask``; both may be keyword arguments instead.
            kv: KV block before the tokens of every row.
            **options: other arguments of ``generate`` in transformers.

        Returns:
            Token ids (B, L + new), as in transformers, without the tokens of ``kv``.
        """
        self.require_head()
        return hf_generate(self.lm, inputs, kv=kv, pad_id=self.tokenizer.pad_token_id, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint folder for ``GritLM``, transformers, sentence-transformers and mteb.

        If sentence-transformers cannot compute the vectors of the model, a warning has the reason,
        and ``SentenceTransformer(folder)`` raises an error with it.
        """
        self._require_merged()
        self._require_whole()
        checkpoint.save(self.lm, self.tokenizer, self.settings, self.projection, Path(folder))

    def export(self, path: str | Path, *, form: ExportForm = "folder", **options: Any) -> None:
        """Write the model for other programs, with adapters merged.

        Args:
            path: the folder; for ``gguf`` the file.
            form: ``folder`` writes what :meth:`save_pretrained` writes; ``chat`` a folder that
                vLLM and transformers take for a model that generates; ``gguf`` a file for chats
                with llama.cpp.
            options: ``dtype`` of a GGUF file (``f32``, ``f16``, ``bf16``, ``q8_0`` or
                ``q4_0``); ``facts`` (:class:`CardFacts`) of the model card in a folder, which is
                not written without.

        Raises:
            InputError: for an unknown form or type.
            ModelError: for a family or a tokenizer that is not written as GGUF.
            OSError: for files that cannot be written.
        """
        from gritlm.lm.hub.formats import upload

        if form != "folder":
            self.require_head()
        upload.write(self._exported, Path(path), form=form, **options)

    def push_to_hub(
        self,
        repo_id: str,
        facts: CardFacts | None = None,
        *,
        private: bool = True,
        token: str | None = None,
    ) -> str:
        """Upload the folder of :meth:`save_pretrained`, with a model card; return its address.

        Args:
            repo_id: ``owner/name`` of the repository, which may be new.
            facts: facts of the model card, such as its licence; None for :attr:`card_facts`.
            private: whether a new repository is private.
            token: token of the hub; None for that of ``hf auth login``.

        Raises:
            UploadError: when the hub refuses or cannot be reached.
        """
        from gritlm.lm.hub.formats import upload

        known = self.card_facts if facts is None else facts
        return upload.push(self._exported, repo_id, known, private=private, token=token)

    @property
    def card_facts(self) -> CardFacts:
        """The facts in the model card of the model's folder, such as its licence."""
        from gritlm.lm.hub.formats.hub_card import known_facts

        return known_facts(Path(self.source if self.adapter is None else self.adapter))

    def _require_seed(self, params: SamplingParams) -> None:
        """Refuse sampling by which processes that share a model would draw different tokens."""
        if self.tensor_parallel_size > 1 and params.temperature > 0 and params.seed is None:
            raise InputError(
                f"temperature is {params.temperature} without a seed: with "
                f"tensor_parallel_size={self.tensor_parallel_size} all processes have to draw the "
                "same tokens; set seed"
            )

    def _require_whole(self) -> None:
        """Refuse to write a model whose weights are quantised, or divided among processes.

        Raises:
            ModelError: for such a model.
        """
        if is_quantized(self.lm.causal):
            raise ModelError(
                "a quantised model cannot be written, its original weights are gone; load it "
                "without quantization to write it"
            )
        if self.tensor_parallel_size > 1:
            raise ModelError(
                f"each of {self.tensor_parallel_size} processes has a part of this model; load it "
                "without tensor_parallel_size to write it"
            )

    @property
    def _exported(self) -> ExportedModel:
        from gritlm.lm.hub.formats.upload import ExportedModel

        self._require_merged()
        self._require_whole()
        return ExportedModel(self.lm, self.tokenizer, self.settings, self.projection)

    @property
    def model(self) -> Any:
        """The Hugging Face model: the causal view."""
        return self.lm.causal

    @property
    def senses(self) -> Senses | None:
        """Towers by which the model reads images and sound; None for text only."""
        return self.lm.senses

    @property
    def reads(self) -> tuple[str, ...]:
        """Kinds of inputs: ``text``, and ``image`` or ``sound`` if there are towers for them."""
        senses = self.lm.senses
        return ("text", *(kind for kind in KINDS if senses is not None and kind in senses.kinds))

    @property
    def device(self) -> torch.device:
        """Device of the embedding layer, which gets the inputs."""
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.lm.dtype

    @property
    def quantization(self) -> str | None:
        """Format of the quantised weights; None for weights that are not."""
        return self._placement.quantization

    @property
    def tensor_parallel_size(self) -> int:
        """Number of processes that share each layer."""
        return self._placement.tensor_parallel_size

    @property
    def max_length(self) -> int:
        """Default maximum length of a text to embed, in tokens."""
        return self._length(None)

    @property
    def encoder(self) -> Encoder:
        """The encoder, which computes the vectors of tokenised prompts."""
        return self._encoder

    @property
    def embedding_dimension(self) -> int:
        """Number of components of a vector."""
        return self._encoder.dimension

    @property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = getattr(self.lm.causal.generation_config, "eos_token_id", None)
        known = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*known, self.tokenizer.eos_token_id] if i is not None)

    def num_parameters(self) -> int:
        """Return the number of parameters, those of towers for images and sound included."""
        senses = self.lm.senses
        towers = 0 if senses is None else sum(p.numel() for p in senses.module.parameters())
        own = int(self.lm.causal.num_parameters()) + quantized_parameters(self.lm.causal)
        return own + towers

    def memory_bytes(self) -> int:
        """Return the size of the weights and buffers in bytes."""
        senses = self.lm.senses
        towers = 0 if senses is None else sum(p.nbytes for p in senses.module.parameters())
        return int(self.lm.causal.get_memory_footprint()) + towers

    def kv_bytes_per_token(self) -> int:
        """Return the bytes of the keys and values of a token, in the dtype of the model."""
        return self.lm.kv_bytes_per_token()

    def _length(self, requested: int | None) -> int:
        limit = self.lm.max_positions
        if requested is None:
            return self.settings.longest_text(limit)
        at_least_one(requested, name="max_length")
        if limit is not None and requested > limit:
            raise InputError(f"max_length={requested}, the model takes at most {limit} tokens")
        return requested

    def _inputs(self, sentences: Any) -> tuple[Sequence[str | Parts], bool]:
        """Return the inputs of a call of :meth:`encode`, and whether it is a single one."""
        if isinstance(sentences, str):
            return as_texts(sentences), True
        if isinstance(sentences, list) and all(isinstance(each, str) for each in sentences):
            return as_texts(sentences), False
        reads_media = self.lm.senses is not None
        many = as_inputs(sentences, self.media_rules, reads_media=reads_media)
        return many, is_single(sentences)

    def _media_length(self, requested: int | None) -> int:
        """Return the maximum length of an input with images or sound, in tokens."""
        limit = self.lm.max_positions
        return requested or (1 << 20 if limit is None else limit)

    def _shortened(self, vectors_ND: Tensor, size: int | None) -> Tensor:
        if size is None:
            return vectors_ND
        return truncated(vectors_ND, size, normalised=self.settings.normalized)

    def require_embedding(self) -> None:
        """Raise an error if the model cannot embed; warn once if it is not trained to.

        Raises:
            ModeError: for a model loaded with ``mode="generative"``.
        """
        if self.mode == "generative":
            raise ModeError(
                "this model was loaded with mode='generative' and does not embed; "
                "load it with mode='unified' or mode='embedding'"
            )
        with self._lock:
            first = not self._warned
            self._warned = True
        if first:
            log.warning(
                "%s is not trained to embed: it was trained to generate only, and its vectors rank "
                "texts poorly",
                self.source,
            )

    def _require_merged(self) -> None:
        """Refuse to write weights next to which an adapter is kept.

        Raises:
            InputError: with the call that merges the adapter.
        """
        if self.embed_adapter is not None:
            raise InputError(
                f"{self.embed_adapter} embeds only and the base generates, which one set of "
                "weights cannot; write the base, or GritLM(BASE, adapter=...)"
            )
        if self._base is not None and self.adapter is not None:
            raise InputError(
                f"{self.adapter} is not merged into the base that it shares; load it alone to "
                f"write it: GritLM({self.source!r}, adapter={self.adapter!r})"
            )

    def require_head(self) -> None:
        """Raise an error if the model cannot generate.

        Raises:
            ModeError: for a model loaded with ``mode="embedding"``.
        """
        if not self.lm.has_head:
            raise ModeError(
                "this model was loaded with mode='embedding' and has no LM head to write with; "
                "load it with mode='unified'"
            )


def _text_ids(blocks: Sequence[KVBlock], prompt: Prompt) -> list[int]:
    """Return the token ids of KV blocks and a prompt, without those of images and sounds."""
    held = [number for block in blocks for number in block.token_ids.tolist()]
    return [number for number in (*held, *prompt.ids) if number >= 0]


def _one_dtype(options: dict[str, Any]) -> Any:
    """Remove and return the option ``dtype``, or ``torch_dtype``, its older name."""
    old = options.pop("torch_dtype", None)
    new = options.pop("dtype", None)
    if old is not None and new is not None and old != new:
        raise UnknownArgumentError(f"torch_dtype={old!r} and dtype={new!r}: give one of the two")
    return new if new is not None else old
