"""Tokenization of the texts and token ids in requests; safe in several threads."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import as_parts
from gritlm.lm.media.media_prompts import embedding_prompt
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import for_yes_no, gritlm_instruction
from gritlm.rag.plan import question_after
from gritlm.serve.engine.errors import TooManyTokensError
from gritlm.serve.errors import invalid, too_long
from gritlm.serve.schemas.content_parts import PartsInput

Ids = tuple[int, ...]
Item = str | list[int]  # a text, or its ids

_CHARACTERS = 16  # per token, in all texts of a request together; four are usual
_KEPT_HEADERS = 32
_LONGEST_KEPT = 1024  # characters of an instruction whose header is kept


@dataclass(frozen=True)
class _Header:
    """The header of an embedding prompt.

    Attributes:
        text: the instruction in the format of the model.
        before: ids before the text.
        behind: ids behind the text.
    """

    text: str
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of a prompt that do not belong to its text."""
        return len(self.before) + len(self.behind)


class PromptTokenizer:
    """Tokenizer of the prompts of one model, with the limits of the server.

    Args:
        model: the model that reads the prompts.
        limit: the most tokens of a prompt with its output, or of a text to embed.
        most: the most tokens of all texts of one request; None for no limit.

    Attributes:
        vocabulary: number of token ids of the model.
    """

    def __init__(self, model: GritLM, *, limit: int, most: int | None = None) -> None:
        self.limit = limit
        self._request_tokens = most
        self.tokens = SegmentTokenizer(model.tokenizer)
        self._settings = model.settings
        self._senses = model.lm.senses
        self._longest = max(map(len, model.tokenizer.get_vocab()))  # characters of a token
        self.vocabulary = model.lm.vocabulary_size
        self._kept_header = lru_cache(_KEPT_HEADERS)(self._header)

    def prompt_ids(self, items: Sequence[Item]) -> list[Ids]:
        """Return the ids of prompts to complete; prompts of token ids are used unchanged."""
        return [
            (*self.tokens.prefix, *self.tokens.pieces([item], first=True)[0])
            if isinstance(item, str)
            else self.check_ids(item, f"prompt {index}", param="prompt")
            for index, item in enumerate(items)
        ]

    def embedding_prompts(
        self,
        items: Sequence[Item],
        *,
        instruction: str = "",
        cut: int | None = None,
        param: str = "input",
        name: str = "text {}",
    ) -> tuple[Prompt, ...]:
        """Return the embedding prompts of texts, each with the header of the instruction.

        Args:
            items: texts, or the token ids of texts.
            instruction: instruction in plain words; empty for no instruction.
            cut: length to truncate each prompt to, in tokens with the header; -1 for the limit of
                the model; None to refuse longer texts.
            param: field of the request that holds the texts, for error messages.
            name: name of a text in error messages; ``{}`` stands for its index.

        Raises:
            ApiError: if a text is too long and is not to be truncated; the message names the text.
        """
        most = self._most(cut)
        room = sys.maxsize if most is None else most
        is_short = len(instruction) <= _LONGEST_KEPT
        header = self._kept_header(instruction) if is_short else self._header(instruction)
        self._require_header_room(room, header)
        if most is None:
            self.require_characters(list(map(characters, items)), name, param=param)
        else:  # do not tokenize text that is cut off anyway
            items = [item[: room * self._longest] if characters(item) else item for item in items]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            prompts, _ = self.tokens.for_embedding(
                texts, max_length=room, instruction=header.text, end=self._settings.embed_eos
            )
        else:
            prompts = [
                _framed(self.check_ids(item, f"text {n}", param=param), room, header)
                for n, item in enumerate(items)
            ]
        if most is None:
            self._require_room(prompts, param)
        return tuple(prompts)

    def media_prompts(
        self, inputs: Mapping[int, PartsInput], instruction: str, rules: MediaRules
    ) -> dict[int, Prompt]:
        """Return the embedding prompts of inputs with images or sounds, which are not cut.

        Args:
            inputs: the inputs, by their index in the request.
            instruction: instruction in plain words; empty for no instruction.
            rules: limits on images and sounds, and how they are decoded.

        Raises:
            ApiError: for an input that is too long, or an image or a sound that is not read.
        """
        sizes = [each.characters for each in inputs.values()]
        self.require_characters(sizes, "an input with an image or a sound", param="input")
        frame = self.tokens.embedding_frame(
            instruction=gritlm_instruction(instruction),
            end=self._settings.embed_eos,
            embed_instruction=False,
            specials=True,
        )
        try:
            return {
                index: embedding_prompt(
                    as_parts(list(each.parts), f"item {index}", rules),
                    name=f"item {index}",
                    tokens=self.tokens,
                    senses=self._senses,
                    frame=frame,
                    max_length=self.limit,
                    rules=rules,
                )
                for index, each in inputs.items()
            }
        except (InputError, MissingExtraError) as error:
            raise invalid(f"'input': {error}", param="input") from None

    def query_prompt(
        self, query: str, instruction: str | None, *, cut: int | None
    ) -> tuple[Prompt, ...]:
        """Return the embedding prompt of the query of a request, as a tuple of one.

        Args:
            query: the query.
            instruction: instruction in plain words; None for the model's own for queries.
            cut: length to truncate the prompt to, as in :meth:`embedding_prompts`.
        """
        own = self._settings.query_instruction
        return self.embedding_prompts(
            [query],
            instruction=own if instruction is None else instruction,
            cut=cut,
            param="query",
            name="the query",
        )

    def question(self, text: str) -> int:
        """Return the number of tokens of a search query.

        Args:
            text: the question.

        Raises:
            ApiError: if the question is longer than the model's maximum context length.
        """
        instruction = self._settings.query_instruction
        (prompt,) = self.embedding_prompts(
            [text], instruction=instruction, param="question", name="the question"
        )
        return len(prompt.ids)

    def question_ids(self, question: str) -> Ids:
        """Return the ids that follow a passage and ask whether it answers a question."""
        self.require_characters([len(question)], "the query", param="query")
        return tuple(self.tokens.for_chat(for_yes_no(question), start=False).ids)

    def question_after(self, question: str) -> tuple[Ids, tuple[int, int]]:
        """Return the ids of a question after its passage, and the span of its text in them."""
        self.require_characters([len(question)], "the query", param="query")
        ids, span = question_after(self.tokens, question)
        return tuple(ids), span

    def first_id(self, word: str) -> int:
        """Return the first token id of a word.

        Args:
            word: a word without spaces.

        Raises:
            ApiError: if the tokenizer has no ids for the word.
        """
        ids = self.tokens.pieces([word], first=False)[0]
        if not ids:
            raise invalid(f"this model's tokenizer has no ids for {word!r}", param="method")
        return ids[0]

    def decode(self, ids: Ids) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self.tokens.tokenizer.decode(list(ids), skip_special_tokens=False))

    def max_new_tokens(self, ids: Sequence[int], wanted: int | None, *, param: str) -> int:
        """Return the number of tokens that may be generated for a prompt.

        Args:
            ids: token ids of the prompt.
            wanted: number of tokens in the request; None for as many as fit.
            param: field of the request that holds the prompt, for error messages.

        Raises:
            ApiError: if prompt and output do not fit into the model's maximum context length.
        """
        if not ids:
            raise invalid("the prompt has no tokens; expected some text", param=param)
        left = self.limit - len(ids)
        if left < (1 if wanted is None else wanted):
            requested = "" if wanted is None else f"; the request asks for {wanted}"
            raise too_long(
                f"This model's maximum context length is {self.limit} tokens; the prompt has "
                f"{len(ids)} and leaves room for {max(0, left)} of output{requested}",
                param=param,
            )
        return left if wanted is None else wanted

    def check_ids(self, ids: Item, name: str, *, param: str) -> Ids:
        """Return token ids of a client, after checking that all are in the vocabulary.

        Args:
            ids: the token ids.
            name: name of the ids in error messages.
            param: field of the request that holds the ids, for error messages.

        Raises:
            ApiError: if an id is not in the vocabulary; the message names it.
        """
        assert not isinstance(ids, str), "texts and ids are not mixed"
        for position, token in enumerate(ids):
            if not 0 <= token < self.vocabulary:
                raise invalid(
                    f"{name} has the token id {token} at {position}; expected 0 to "
                    f"{self.vocabulary - 1}",
                    param=param,
                )
        return tuple(ids)

    def require_characters(self, sizes: Sequence[int], name: str, *, param: str) -> None:
        """Refuse texts with too many characters to fit, before time is spent on tokenizing them.

        Args:
            sizes: characters of each text.
            name: name of a text in error messages; ``{}`` stands for its index.
            param: field of the request that holds the texts, for error messages.

        Raises:
            ApiError: if one text is too long; the message names the text.
            TooManyTokensError: if the texts together are too long for one request.
        """
        for index, size in enumerate(sizes):
            if size > self.limit * self._longest:
                raise too_long(
                    f"{name.format(index)} has {size:,} characters, which are at least "
                    f"{-(-size // self._longest):,} tokens; this model's maximum context length is "
                    f"{self.limit}. Shorten it",
                    param=param,
                )
        total = sum(sizes)
        most = self._request_tokens
        if most is not None and total > most * _CHARACTERS:
            raise TooManyTokensError(total // _CHARACTERS, most)

    def _most(self, cut: int | None) -> int | None:
        if cut is None:
            return None
        if cut == 0 or cut > self.limit:
            raise invalid(
                f"truncate_prompt_tokens={cut}; expected 1 to {self.limit}, or -1 for that limit",
                param="truncate_prompt_tokens",
            )
        return self.limit if cut == -1 else cut

    def _header(self, instruction: str) -> _Header:
        """Return the header for an instruction in plain words."""
        text = gritlm_instruction(instruction)
        (prompt,), _ = self.tokens.for_embedding(
            ["a"], max_length=sys.maxsize, instruction=text, end=self._settings.embed_eos
        )
        start = prompt.pooled[0]
        end = start + len(self.tokens.pieces(["a"], first=False)[0])
        return _Header(text, tuple(prompt.ids[:start]), tuple(prompt.ids[end:]))

    def _require_header_room(self, room: int, header: _Header) -> None:
        if room <= header.tokens:
            raise invalid(
                f"truncate_prompt_tokens={room}, and the instruction takes {header.tokens} tokens; "
                f"expected more than {header.tokens}",
                param="truncate_prompt_tokens",
            )

    def _require_room(self, prompts: Sequence[Prompt], param: str) -> None:
        for index, prompt in enumerate(prompts):
            if len(prompt.ids) > self.limit:
                raise too_long(
                    f"text {index} of {len(prompts)} has {len(prompt.ids)} tokens with its header; "
                    f"this model's maximum context length is {self.limit}. Shorten it, or send "
                    "truncate_prompt_tokens=-1 to have it cut",
                    param=param,
                )


def characters(item: Item) -> int:
    """Return the number of characters of a text; 0 for token ids."""
    return len(item) if isinstance(item, str) else 0


def _framed(ids: Ids, room: int, header: _Header) -> Prompt:
    """Return an embedding prompt with these ids in the place of its text."""
    whole = [*header.before, *ids[: room - header.tokens], *header.behind]
    return Prompt(whole, pooled=(len(header.before), len(whole)))
