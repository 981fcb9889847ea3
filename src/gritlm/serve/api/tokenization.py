"""Texts, conversations and ids of requests -> what the model reads. Called from several threads."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jinja2.exceptions import TemplateError

from gritlm.errors import InputError
from gritlm.lm.chat import Message, chat_ids
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import for_yes_no, gritlm_instruction
from gritlm.serve.engine.errors import TooManyTokensError
from gritlm.serve.errors import invalid, too_long

Ids = tuple[int, ...]
Item = str | list[int]  # a text, or its ids
Frame = tuple[list[int], list[int]]  # ids before the pooled ones, and those behind the text


_CHARACTERS = 16  # of a token in texts of a request together; four are usual


class PromptTokenizer:
    """Tokenizes for one model.

    Args:
        limit: tokens of a prompt with its answer, or of a text.
        most: tokens of all texts of one request; None for any number.
    """

    def __init__(self, model: GritLM, *, limit: int, most: int | None = None) -> None:
        self.limit = limit
        self._request_tokens = most
        self.tokens = SegmentTokenizer(model.tokenizer)
        self._settings = model.settings
        self._longest = max(map(len, model.tokenizer.get_vocab()))  # characters of a token
        self._vocabulary = int(model.model.get_input_embeddings().num_embeddings)

    def chat(self, messages: Sequence[Message]) -> Ids:
        """A conversation, up to where its answer begins.

        Raises:
            ApiError: for one that the model's template does not take.
        """
        try:
            return tuple(chat_ids(self.tokens, messages, template=self._settings.template))
        except TemplateError as error:
            raise invalid(
                f"the model's chat template does not take this: {error}", param="messages"
            ) from None
        except InputError as error:
            raise invalid(f"'messages': {error}", param="messages") from None

    def plain(self, items: Sequence[Item]) -> list[Ids]:
        """Prompts to complete, as texts or as ids that are read as they are."""
        return [
            (*self.tokens.prefix, *self.tokens.pieces([item], first=True)[0])
            if isinstance(item, str)
            else self.known(item, f"prompt {index}", param="prompt")
            for index, item in enumerate(items)
        ]

    def texts(
        self,
        items: Sequence[Item],
        *,
        instruction: str = "",
        cut: int | None = None,
        param: str = "input",
        name: str = "text {}",
    ) -> tuple[Prompt, ...]:
        """Texts to embed, or their ids, each behind the header of its instruction.

        Args:
            instruction: in plain words; empty for none.
            cut: tokens a text is cut to with its header; -1 for the model's own limit.
            name: of a text in messages, with its number.

        Raises:
            ApiError: for a text that is too long and not to be cut, naming it.
        """
        most = self._most(cut)
        room = sys.maxsize if most is None else most
        header = gritlm_instruction(instruction)
        frame = self._frame(header)
        self._require_header_room(room, frame)
        if most is None:
            self.require_characters(list(map(characters, items)), name, param=param)
        else:  # what is cut off anyway is not tokenized
            items = [item[: room * self._longest] if characters(item) else item for item in items]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            made, _ = self.tokens.for_embedding(
                texts, max_length=room, instruction=header, end=self._settings.embed_eos
            )
        else:
            made = [
                _framed(self.known(item, f"text {n}", param=param), room, frame)
                for n, item in enumerate(items)
            ]
        if most is None:
            self._require_room(made, param)
        return tuple(made)

    def question(self, text: str) -> int:
        """Return the tokens of a question that is searched with.

        Raises:
            ApiError: for one that is longer than the model takes.
        """
        instruction = self._settings.query_instruction
        (prompt,) = self.texts(
            [text], instruction=instruction, param="question", name="the question"
        )
        return len(prompt.ids)

    def question_about(self, question: str) -> Ids:
        """What asks behind a passage whether it answers a question."""
        self.require_characters([len(question)], "the query", param="query")
        return tuple(self.tokens.for_chat(for_yes_no(question), start=False).ids)

    def first_id(self, word: str) -> int:
        """The token that a word begins with.

        Raises:
            ApiError: for a tokenizer that has none.
        """
        ids = self.tokens.pieces([word], first=False)[0]
        if not ids:
            raise invalid(f"this model's tokenizer has no ids for {word!r}", param="method")
        return ids[0]

    def text(self, ids: Ids) -> str:
        """What ids spell, special tokens too."""
        return str(self.tokens.tokenizer.decode(list(ids), skip_special_tokens=False))

    def room(self, ids: Ids, wanted: int | None, *, param: str) -> int:
        """Tokens that an answer may have.

        Raises:
            ApiError: when prompt and answer do not fit, with the numbers.
        """
        if not ids:
            raise invalid("the prompt has no tokens; expected some text", param=param)
        left = self.limit - len(ids)
        if left < (1 if wanted is None else wanted):
            asked = "" if wanted is None else f", of the {wanted} that you asked for"
            raise too_long(
                f"This model's maximum context length is {self.limit} tokens; the prompt has "
                f"{len(ids)} and leaves room for {max(0, left)} of an answer{asked}",
                param=param,
            )
        return left if wanted is None else wanted

    def known(self, ids: Item, name: str, *, param: str) -> Ids:
        """Ids of a client, if all of them are in the vocabulary.

        Raises:
            ApiError: naming the one that is not.
        """
        assert not isinstance(ids, str), "texts and ids are not mixed"
        for place, token in enumerate(ids):
            if not 0 <= token < self._vocabulary:
                raise invalid(
                    f"{name} has the token id {token} at {place}; expected 0 to "
                    f"{self._vocabulary - 1}",
                    param=param,
                )
        return tuple(ids)

    def require_characters(self, sizes: Sequence[int], name: str, *, param: str) -> None:
        """Refuse texts that cannot fit, by their characters, before time is spent on their tokens.

        Args:
            name: of a text, with its number.

        Raises:
            ApiError: naming the text that is too long.
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

    def _frame(self, header: str) -> Frame:
        """What stands around a text with this header."""
        (frame,), _ = self.tokens.for_embedding(
            ["a"], max_length=sys.maxsize, instruction=header, end=self._settings.embed_eos
        )
        start = frame.pooled[0]
        text = self.tokens.pieces(["a"], first=False)[0]
        return frame.ids[:start], frame.ids[start + len(text) :]

    def _require_header_room(self, room: int, frame: Frame) -> None:
        taken = sum(map(len, frame))
        if room <= taken:
            raise invalid(
                f"truncate_prompt_tokens={room}, and the instruction takes {taken} tokens; "
                "expected more than that",
                param="truncate_prompt_tokens",
            )

    def _require_room(self, made: Sequence[Prompt], param: str) -> None:
        for index, prompt in enumerate(made):
            if len(prompt.ids) > self.limit:
                raise too_long(
                    f"text {index} of {len(made)} has {len(prompt.ids)} tokens with its header; "
                    f"this model's maximum context length is {self.limit}. Shorten it, or send "
                    "truncate_prompt_tokens=-1 to have it cut",
                    param=param,
                )


def characters(item: Item) -> int:
    """Return the characters of a text; ids have none."""
    return len(item) if isinstance(item, str) else 0


def _framed(ids: Ids, room: int, frame: Frame) -> Prompt:
    """Ids where the text of an embedding prompt stands."""
    head, tail = frame
    whole = [*head, *ids[: room - len(head) - len(tail)], *tail]
    return Prompt(whole, pooled=(len(head), len(whole)))
