"""Formats of tool calls of Llama and Mistral, and the choice of a format by the chat template.

- Llama 3.1 and later: ``{"name": ..., "parameters": ...}`` as the whole answer, one call, perhaps
  after ``<|python_tag|>``.
- Mistral: ``[TOOL_CALLS] [{"name": ..., "arguments": ...}, ...]``; in newer models
  ``[TOOL_CALLS]name[ARGS]{...}``, repeated for each call, with ``[CALL_ID]id`` before ``[ARGS]`` in
  some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from gritlm.lm.chat_template import has_own_code
from gritlm.lm.tokens import special_tokens
from gritlm.lm.tools.call_format import BEGIN, HERMES, CallFormat

PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"

_LLAMA_CALL = re.compile(r"""["']parameters["']\s*:""")


def native_format(tokenizer: PreTrainedTokenizerBase) -> CallFormat | None:
    """Return the format in which a chat template writes calls, if it is a known one.

    Args:
        tokenizer: the tokenizer with its chat template.

    Returns:
        The format; None for a template that lists no tools, or has another format.
    """
    if tokenizer.chat_template is None or has_own_code(tokenizer):
        return None
    source = str(tokenizer.get_chat_template(tools=[{}]))
    if "tools" not in source or "tool_calls" not in source:
        return None
    if BEGIN in source:
        return HERMES
    special = special_tokens(tokenizer)
    if TOOL_CALLS in source and TOOL_CALLS in special:
        has_marks = ARGS in source and ARGS in special
        return _mistral_marks(special) if has_marks else _mistral_list(special[TOOL_CALLS])
    is_llama = _LLAMA_CALL.search(source) and '{"name": ' in source and "ipython" in source
    return _llama(special.get(PYTHON_TAG)) if is_llama else None


def _llama(python_tag: int | None) -> CallFormat:
    call = "function" if python_tag is None else f"<[{python_tag}]>? function"
    return CallFormat(
        name="llama",
        begin="",
        head=r'\{"name": "([^"]*)", "parameters": (?=\{)',
        tail=r"\s*\}",
        function=r'"{\"name\": \"NAME\", \"parameters\": " ARGUMENTS "}"',
        rules=f"call: {call}\nPLAIN: /[ \\n\\t]*([^ \\n\\t{{](.|\\n)*)?/\n",
        one="call",
        many="call",
        text_or_one="call | PLAIN",
        text_or_many="call | PLAIN",
        special_ids=() if python_tag is None else (python_tag,),
    )


def _mistral_list(tool_calls: int) -> CallFormat:
    return CallFormat(
        name="mistral",
        begin=TOOL_CALLS,
        head=r'[\s,\[]*\{"name": "([^"]*)", "arguments": (?=\{)',
        tail=r'(?:, "id": "[^"]*")?\s*\}',
        listed=True,
        function=r'"{\"name\": \"NAME\", \"arguments\": " ARGUMENTS "}"',
        rules=f"""SPACE: / ?/
call: <[{tool_calls}]> SPACE "[" function "]"
calls: <[{tool_calls}]> SPACE "[" function (", " function)* "]"
""",
        one="call",
        many="calls",
        text_or_one="TEXT call?",
        text_or_many="TEXT calls?",
        special_ids=(tool_calls,),
        short_ids=True,
    )


def _mistral_marks(special: Mapping[str, int]) -> CallFormat:
    call_id = f"(<[{special[CALL_ID]}]> CALL_ID)? " if CALL_ID in special else ""
    marks = [special[mark] for mark in (TOOL_CALLS, ARGS, CALL_ID) if mark in special]
    return CallFormat(
        name="mistral-args",
        begin=TOOL_CALLS,
        head=r"\s*([^\[\{]*?)\s*(?:\[CALL_ID\][^\[\{]*)?\[ARGS\]\s*(?=\{)",
        tail="",
        function=f'"NAME" {call_id}<[{special[ARGS]}]> ARGUMENTS',
        rules=f"CALL_ID: /[a-zA-Z0-9]{{9}}/\ncall: <[{special[TOOL_CALLS]}]> function\n",
        one="call",
        many="call+",
        text_or_one="TEXT call?",
        text_or_many="TEXT call*",
        special_ids=tuple(marks),
        short_ids=True,
    )
