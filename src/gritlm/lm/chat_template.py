"""Rendering of chat templates in a sandbox, with limits of time and memory.

A chat template is a program of the checkpoint. The sandbox, its functions and its filters are those
of transformers. Loops, calls and sizes are counted here, so that a template can neither block its
thread nor fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, wraps
from types import MappingProxyType
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from gritlm.errors import InputError, one_line

_MOST_STEPS = 1_000_000  # of loops and calls together: a second or less
_CALL = 5  # steps of one call
_MOST_CHARACTERS = 1_000_000  # of a text, and more for long messages
_PER_CHARACTER = 8  # a template may repeat a message
_LARGEST_NUMBER = 100_000  # as an argument: widths, counts
_LONG = 64  # items that a filter reads in a step
_SIZED = (str, list, tuple, dict)
NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})  # set by render()


class _BoundError(Exception):
    """A template that exceeds its limits."""


class _Budget:
    """Remaining steps and characters of a rendering."""

    def __init__(self, characters: int) -> None:
        self.steps = _MOST_STEPS
        self.characters = _MOST_CHARACTERS + _PER_CHARACTER * characters

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise _BoundError(f"takes more than {_MOST_STEPS:,} steps")

    def require(self, size: int) -> None:
        if size > self.characters:
            raise _BoundError(f"writes more than {self.characters:,} characters")


_budget: ContextVar[_Budget] = ContextVar("budget of the template that is rendered")


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    answer: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] = NO_VARIABLES,
) -> str:
    """Return a conversation rendered by the tokenizer's chat template.

    Args:
        tokenizer: the tokenizer with its chat template.
        messages: the conversation.
        answer: whether to end with the beginning of an assistant's turn.
        tools: tools that the template lists, in the form of OpenAI's API.
        variables: further variables of the template, such as ``enable_thinking``.

    Raises:
        InputError: for a template that fails, refuses the conversation, or exceeds its limits.
    """
    if has_own_code(tokenizer):
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answer,
            )
        )
    given = [*messages, tools, variables]
    budget = _Budget(sum(len(str(each)) for each in given))
    token = _budget.set(budget)
    try:
        pieces = _compiled(_source(tokenizer, tools)).generate(
            **variables,
            messages=[_fitting(message, tokenizer) for message in messages],
            tools=tools,
            documents=None,
            add_generation_prompt=answer,
            **tokenizer.special_tokens_map,
        )
        return _joined(pieces, budget)
    except Exception as error:  # a template can raise any exception
        raise InputError(f"the chat template of this model {_reason(error)}") from error
    finally:
        _budget.reset(token)


def _fitting(message: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return a message with its content as parts, if the template would drop a plain text."""
    content = message.get("content")
    if not isinstance(content, str) or not needs_parts(str(tokenizer.chat_template)):
        return dict(message)
    return {**message, "content": [{"type": "text", "text": content}]}


@lru_cache(maxsize=16)
def needs_parts(source: str) -> bool:
    """Return whether a chat template writes content parts only, and drops plain texts.

    Args:
        source: the template.
    """
    if "content" not in source or ("'type'" not in source and '"type"' not in source):
        return False
    text = "a text"
    plain = [{"role": "user", "content": text}]
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return text not in _tried(source, plain) and text in _tried(source, parts)


def _tried(source: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a template writes; an empty text if it fails."""
    budget = _Budget(0)
    token = _budget.set(budget)
    try:
        pieces = _compiled(source).generate(messages=messages, add_generation_prompt=True)
        return _joined(pieces, budget)
    except Exception:  # a template can raise any exception
        return ""
    finally:
        _budget.reset(token)


def template_variables(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the names of the variables that a client may set in the tokenizer's chat template.

    Args:
        tokenizer: the tokenizer; without a template, or with code in its place, it has none.
    """
    if tokenizer.chat_template is None or has_own_code(tokenizer):
        return frozenset()
    return _variables(_source(tokenizer, None)) - RESERVED - set(tokenizer.special_tokens_map)


def has_own_code(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether code of transformers formats conversations, in the place of a template."""
    own = PreTrainedTokenizerBase.apply_chat_template
    return type(tokenizer).apply_chat_template is not own


def require_syntax(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a chat template that cannot be compiled.

    Raises:
        InputError: for a syntax error, with its line.
    """
    try:
        _compiled(tokenizer.get_chat_template())
    except Exception as error:  # such as RecursionError for deep nesting
        raise InputError(f"the chat template of this model {_reason(error)}") from error


def _source(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Mapping[str, Any]] | None) -> str:
    """Return the template of a tokenizer, which may have another one for tools."""
    return str(tokenizer.get_chat_template(tools=None if tools is None else [*map(dict, tools)]))


def _joined(pieces: Iterable[str], budget: _Budget) -> str:
    found = []
    size = 0
    for piece in pieces:
        size += len(piece)
        budget.require(size)
        found.append(piece)
    return "".join(found)


def _reason(error: Exception) -> str:
    message = one_line(error, limit=300)
    if isinstance(error, _BoundError):
        return f"{message}; repair it, or set template='gritlm' in gritlm.json"
    if isinstance(error, TemplateSyntaxError):
        return f"has a syntax error in line {error.lineno} ({message}); restore it"
    return f"refuses or cannot render these messages ({type(error).__name__}: {message})"


@lru_cache(maxsize=16)
def _variables(source: str) -> frozenset[str]:
    environment = _environment()
    names = find_undeclared_variables(environment.parse(source))
    return frozenset(names) - set(environment.globals)


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


def _environment() -> _BoundedEnvironment:
    theirs = _compile_jinja_template("").environment
    ours = _BoundedEnvironment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    ours.globals.update({k: v for k, v in theirs.globals.items() if k != "lipsum"})
    del ours.globals["lipsum"]
    ours.filters.update({name: _guarded(function) for name, function in theirs.filters.items()})
    ours.filters[_COUNTED], ours.filters[_CONCATENATED] = _counted, _concatenated
    return ours


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _require_small(operator, left, right)
        return _checked(super().call_binop(context, operator, left, right))

    def call(*args: Any, **kwargs: Any) -> Any:  # no names: a template may use any of them
        _require_arguments(args[3:], kwargs)
        return _checked(ImmutableSandboxedEnvironment.call(*args, **kwargs))


# Filter names with a space, which a template cannot use.
_COUNTED = "items counted"
_CONCATENATED = "texts concatenated"


class _Counting(NodeTransformer):
    """A transformation that routes loops and ``~`` through counting filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        node.iter = _filtered(node.iter, _COUNTED)
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        operands = nodes.List(node.nodes, lineno=node.lineno)
        return self.generic_visit(_filtered(operands, _CONCATENATED))


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _step()
        yield item


def _concatenated(values: Sequence[Any]) -> str:
    texts = [str(value) for value in values]
    _require_characters(sum(map(len, texts)))
    return "".join(texts)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts the items it reads and refuses large numbers."""

    @wraps(function)  # jinja2 marks functions that want the context
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _require_arguments(args, kwargs)
        return _checked(function(*args, **kwargs))

    return bounded


def _require_arguments(args: Sequence[Any], named: dict[str, Any]) -> None:
    _step(_CALL + sum(len(value) // _LONG for value in args if isinstance(value, _SIZED)))
    for value in (*args, *named.values()):
        if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise _BoundError(f"uses a number above {_LARGEST_NUMBER:,}")


def _require_small(operator: str, left: Any, right: Any) -> None:
    """Refuse to repeat, pad or concatenate texts and lists beyond the bound, before it is done."""
    _step()
    sizes = [len(value) if isinstance(value, _SIZED) else 1 for value in (left, right)]
    numbers = [abs(value) for value in (left, right) if isinstance(value, int | float)]
    if operator == "*" and len(numbers) < 2:
        _require_characters(int(sizes[0] * sizes[1] * max(numbers, default=1)))
    elif operator == "%" and isinstance(left, str):
        _require_arguments([int(digits) for digits in re.findall(r"\d+", left)], {})
    elif operator == "**" and max(numbers, default=0) > _LONG:
        raise _BoundError(f"raises to a power with a number above {_LONG}")
    elif operator == "+":
        _require_characters(sum(sizes))


def _checked(value: Any) -> Any:
    if isinstance(value, _SIZED):
        _require_characters(len(value))
    return value


def _step(count: int = 1) -> None:
    if budget := _budget.get(None):
        budget.step(count)


def _require_characters(size: int) -> None:
    if budget := _budget.get(None):
        budget.require(size)
