"""GritLM: the facade. One model that embeds, searches and writes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gritlm.errors import InputError, ModeError, UnknownArgumentError, choice
from gritlm.lm import inputs
from gritlm.lm.chat import Message, chat_ids
from gritlm.lm.encoder import EncodeOptions, Encoder
from gritlm.lm.generator import TextStream, complete
from gritlm.lm.hf_generate import hf_generate
from gritlm.lm.hub import checkpoint
from gritlm.lm.hub.load import load
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.hub.model_config import MODES, ModelSettings
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.pooling import normalise
from gritlm.lm.precision import handed_out, truncated
from gritlm.lm.sampling import make_sampler
from gritlm.lm.self_check import require_numbers, require_views
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.unified import UnifiedLM
from gritlm.prompts import gritlm_instruction

log = logging.getLogger(__name__)

Vectors = NDArray[Any] | Tensor


class GritLM:
    """One set of weights that embeds (bidirectionally) and generates (causally).

    Args:
        model_name_or_path: hub id or checkpoint folder of any decoder, or of an adapter; None or
            ``"default"`` for the default model, whose base is fetched at the first use; ``"base"``
            for that base without the adapter that taught it to embed.
        mode: ``unified``, ``embedding`` (loads no LM head) or ``generative``.
        pooling_method: ``mean``, ``weightedmean``, ``lasttoken`` or ``cls``. This and the next four
            default to what the checkpoint's ``gritlm.json`` says, else to the reference's values
            (mean, True, no projection, bbcc, no string).
        normalized: vectors of length 1.
        projection: size the states are projected to before pooling.
        attn: ``bbcc``, ``cccc``, ``bb`` or ``cc``.
        embed_eos: string put behind every text to embed.
        device: where to put the model; None for the best there is.
        adapter: folder or hub id of a PEFT adapter, merged into the weights when loading. On the
            default model it takes the place of its own.
        compile: compile the steps of ``chat`` (CUDA graphs on a GPU): slow to start, then fast.
        from_pretrained: ``dtype`` (or ``torch_dtype``; None picks what this machine is fastest in),
            ``device_map``, ``quantization_config``, ``attn_implementation``, ``revision``, ...

    Raises:
        ModelError: for a checkpoint that cannot be loaded or whose attention cannot be changed.
        UnknownArgumentError: for a keyword nobody reads.
        InputError: for an unknown value.
    """

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
        compile: bool = False,
        **from_pretrained: Any,
    ) -> None:
        choice(mode, MODES, name="mode")
        source, adapter = checkpoint.resolve(model_name_or_path, adapter)
        dtype = _one_dtype(from_pretrained)
        loaded = load(
            source, mode=mode, device=device, dtype=dtype, adapter=adapter, options=from_pretrained
        )
        settings = loaded.settings.but(
            pooling_method=pooling_method,
            normalized=normalized,
            projection=projection,
            attn=attn,
            embed_eos=embed_eos,
        )
        self.source = source
        self.adapter = adapter
        self.dtype_reason = loaded.dtype_reason
        with explained(source):
            lm = UnifiedLM(loaded.model, compiled=compile)
            if mode != "generative" and not settings.embeds_causally:
                require_views(lm)
            require_numbers(lm)
            head = checkpoint.projection([adapter, source], settings, lm)
            self._put_together(lm, loaded.tokenizer, settings, head, mode)

    @classmethod
    def around(
        cls,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        settings: ModelSettings,
        projection: nn.Linear | None = None,
    ) -> GritLM:
        """The facade over a model of transformers that is in memory already, e.g. in training.

        Args:
            model: with its LM head, in evaluation mode from now on.
            settings: with its ``template`` decided (not ``auto``).
        """
        made = cls.__new__(cls)
        made.source = "a model in memory"
        made.adapter = None
        made.dtype_reason = "as handed in"
        made._put_together(UnifiedLM(model), tokenizer, settings, projection, "unified")
        return made

    def _put_together(
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
        self._warned = settings.trained_to_embed is not False

    def encode(
        self,
        sentences: str | Sequence[str],
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
        """Texts -> vectors, in the order of the texts.

        Args:
            sentences: one text or many.
            batch_size: most texts read at once; a token budget for the machine bounds it further.
            max_length: tokens a text is cut to, header included (a warning counts the cut ones).
            instruction: the formatted header, ``gritlm_instruction("what to do")``.
            embed_instruction: average over the header too.
            get_cache: also return the key/value state, one :class:`KVBlock` a text, unpadded.
            convert_to_tensor: a torch tensor on the model's device instead of a numpy array.
            recast: vectors in the model's own number format (tensors; numpy stays float32).
            add_special_tokens: put the tokenizer's BOS in front.
            truncate_dim: keep the first so many dimensions (and normalise again).
            precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
            show_progress_bar: None shows one on a terminal when it takes more than a second.

        Returns:
            (D,) for one text, (N, D) for a list, float32; with ``get_cache`` a pair
            ``(vectors, blocks)``.

        Raises:
            InputError: naming the text that is empty, no text, or has no room.
            ModeError: on a model loaded with ``mode="generative"``.
        """
        self.require_embedding()
        many = inputs.validated(sentences)
        inputs.validated([instruction])
        options = EncodeOptions(
            batch_size=inputs.at_least_one(batch_size, name="batch_size"),
            max_length=self._length(max_length),
            instruction=instruction,
            embed_instruction=embed_instruction,
            add_special_tokens=add_special_tokens,
            get_cache=get_cache,
            progress=show_progress_bar,
        )
        vectors_ND, blocks = self._encoder.encode(many, options)
        if truncate_dim is not None:
            vectors_ND = truncated(vectors_ND, truncate_dim, normalised=self.settings.normalized)
        if recast:
            vectors_ND = vectors_ND.to(self.dtype)
        vectors = handed_out(
            vectors_ND, precision=precision, device=self.device if convert_to_tensor else None
        )
        if isinstance(sentences, str):
            vectors = vectors[0]
        return (vectors, blocks) if get_cache else vectors

    def encode_queries(self, queries: str | Sequence[str], **options: Any) -> Any:
        """As :meth:`encode`; the name that BEIR users know."""
        return self.encode(queries, **options)

    def encode_corpus(
        self,
        corpus: str | Sequence[str] | Mapping[str, str] | Sequence[Mapping[str, str]],
        **options: Any,
    ) -> Any:
        """As :meth:`encode`, for texts or ``{"title": ..., "text": ...}`` (joined by a space)."""
        return self.encode(inputs.documents(corpus), **options)

    def encode_query(
        self, sentences: str | Sequence[str], *, instruction: str | None = None, **options: Any
    ) -> Any:
        """As :meth:`encode`, with the model's own query instruction as the default header."""
        if instruction is None:
            instruction = gritlm_instruction(self.settings.query_instruction)
        return self.encode(sentences, instruction=instruction, **options)

    def encode_document(
        self, sentences: Any, *, instruction: str | None = None, **options: Any
    ) -> Any:
        """As :meth:`encode_corpus`, with the header of a text without instruction."""
        header = gritlm_instruction() if instruction is None else instruction
        return self.encode_corpus(sentences, instruction=header, **options)

    def similarity(self, one: Vectors, other: Vectors) -> Tensor:
        """Cosine of each vector with each -> (N, M)."""
        return normalise(inputs.as_rows(one)) @ normalise(inputs.as_rows(other)).T

    def similarity_pairwise(self, one: Vectors, other: Vectors) -> Tensor:
        """Cosine of vector i with vector i -> (N,)."""
        return (normalise(inputs.as_rows(one)) * normalise(inputs.as_rows(other))).sum(dim=-1)

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        kv: KVBlock | None = None,
        stream: bool = False,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> str | Iterator[str]:
        """Answer a text or a conversation.

        Args:
            messages: a text, or ``{"role": "system" | "user" | "assistant", "content": str}``.
            kv: key/value state that comes before the conversation, as ``encode(get_cache=True)``
                returns it; it is moved to position 0.
            stream: return an iterator of pieces of text instead of the text.
            temperature: 0 (the default) takes the likeliest token.
            stop: strings that end the answer; they are not part of it.
            seed: fixes what is drawn.

        Raises:
            InputError: for values out of range or a prompt that does not fit.
            CacheMismatchError: when another model made ``kv``.
            ModeError: on a model loaded with ``mode="embedding"``.
        """
        self.require_head()
        sampler = make_sampler(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        ids = self.chat_ids(messages, start=kv is None)
        tokens = complete(
            self.lm,
            ids,
            kv=kv,
            sampler=sampler,
            max_new_tokens=max_new_tokens,
            end_ids=self.end_ids,
        )
        stops = inputs.validated([] if stop is None else stop)
        pieces = TextStream(self.tokenizer, stops).pieces(tokens)
        return pieces if stream else "".join(pieces)

    def chat_ids(self, messages: str | Sequence[Message], *, start: bool = True) -> list[int]:
        """The token ids that :meth:`chat` has the model read, up to where its answer begins.

        Args:
            start: False when they follow key/value state.

        Raises:
            InputError: for a conversation that is not one.
        """
        return chat_ids(self._tokens, messages, template=self.settings.template, start=start)

    def generate(
        self,
        inputs: Tensor | Mapping[str, Tensor] | None = None,
        *,
        kv: KVBlock | None = None,
        **options: Any,
    ) -> Any:
        """transformers' ``generate`` on the causal view, with all of its arguments.

        Args:
            inputs: ids (B, L), or a mapping with ``input_ids`` (and ``attention_mask``); both may
                be given by these names instead.
            kv: key/value state that comes before the ids of every row.

        Returns:
            Ids (B, L + new), as transformers does; those of ``kv`` are not among them.
        """
        self.require_head()
        return hf_generate(self.lm, inputs, kv=kv, pad_id=self.tokenizer.pad_token_id, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that ``GritLM``, transformers, sentence-transformers and mteb load.

        A model whose vectors sentence-transformers cannot compute is written for the others only:
        a warning names the reason, and ``SentenceTransformer(folder)`` raises it.
        """
        checkpoint.save(self.lm, self.tokenizer, self.settings, self.projection, Path(folder))

    @property
    def model(self) -> Any:
        """The Hugging Face model: the causal view."""
        return self.lm.causal

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def max_length(self) -> int:
        """Tokens a text to embed is cut to by default."""
        return self._length(None)

    @property
    def encoder(self) -> Encoder:
        """What turns prompts into vectors."""
        return self._encoder

    @property
    def embedding_dimension(self) -> int:
        return self._encoder.dimension

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        said = getattr(self.lm.causal.generation_config, "eos_token_id", None)
        known = said if isinstance(said, list) else [said]
        return frozenset(i for i in [*known, self.tokenizer.eos_token_id] if i is not None)

    def num_parameters(self) -> int:
        return int(self.lm.causal.num_parameters())

    def memory_bytes(self) -> int:
        """Bytes of the weights and buffers."""
        return int(self.lm.causal.get_memory_footprint())

    def kv_bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in the model's number format."""
        return self.lm.kv_bytes_per_token()

    def _length(self, asked: int | None) -> int:
        limit = self.lm.max_positions
        if asked is None:
            return self.settings.longest_text(limit)
        inputs.at_least_one(asked, name="max_length")
        if limit is not None and asked > limit:
            raise InputError(f"max_length={asked}, the model takes at most {limit} tokens")
        return asked

    def require_embedding(self) -> None:
        """Refuse to embed with a model that cannot; warn once about one that never learned it.

        Raises:
            ModeError: on a model loaded with ``mode="generative"``.
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
                "%s is not trained to embed: it only ever learned to write, and its vectors rank "
                "texts poorly",
                self.source,
            )

    def require_head(self) -> None:
        """Refuse to write with a model that cannot.

        Raises:
            ModeError: on a model loaded with ``mode="embedding"``.
        """
        if not self.lm.has_head:
            raise ModeError(
                "this model was loaded with mode='embedding' and has no LM head to write with; "
                "load it with mode='unified'"
            )


def _one_dtype(options: dict[str, Any]) -> Any:
    """``dtype`` or its older name ``torch_dtype``."""
    old = options.pop("torch_dtype", None)
    new = options.pop("dtype", None)
    if old is not None and new is not None and old != new:
        raise UnknownArgumentError(f"torch_dtype={old!r} and dtype={new!r}: give one of the two")
    return new if new is not None else old
