"""Chat templates with the tool formats of Llama and Mistral, and a small tokenizer for each."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from tests import tiny

LLAMA = """{{- bos_token }}
{%- for message in messages %}
  {%- if message.role == 'user' and loop.last and tools %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}
    {{- 'Given the following functions, please respond with a JSON for a function call. ' }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary}.\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- message.content + '<|eot_id|>' }}
  {%- elif 'tool_calls' in message %}
    {%- if not message.tool_calls | length == 1 %}
      {{- raise_exception('This model only supports single tool-calls at once!') }}
    {%- endif %}
    {%- set call = message.tool_calls[0].function %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
    {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
  {%- elif message.role == 'tool' or message.role == 'ipython' %}
    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
  {%- else %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content + '<|eot_id|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

_MISTRAL = """{{- bos_token }}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {%- if loop.last and tools %}
      {{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
    {%- endif %}
    {{- '[INST]' + message.content + '[/INST]' }}
  {%- elif message.tool_calls is defined and message.tool_calls is not none %}
    CALLS
  {%- elif message.role == 'assistant' %}
    {{- message.content + eos_token }}
  {%- elif message.role == 'tool' %}
    {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}
      {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}
    {%- endif %}
    {{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
  {%- endif %}
{%- endfor %}"""
MISTRAL = _MISTRAL.replace(
    "CALLS",
    """{{- '[TOOL_CALLS] [' }}
    {%- for call in message.tool_calls %}
      {{- (call.function | tojson)[:-1] }}
      {%- if call.id is not defined or call.id | length != 9 %}
        {{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}
      {%- endif %}
      {{- ', "id": "' + call.id + '"}' }}{{- ', ' if not loop.last else ']' + eos_token }}
    {%- endfor %}""",
)
MISTRAL_ARGS = _MISTRAL.replace(
    "CALLS",
    """{%- for call in message.tool_calls %}
      {{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' }}
      {{- call.function.arguments | tojson }}
    {%- endfor %}
    {{- eos_token }}""",
)
SPECIAL = {
    "llama": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
    "mistral": ["[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
    "mistral-args": ["[INST]", "[/INST]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
}
TEMPLATES = {"llama": LLAMA, "mistral": MISTRAL, "mistral-args": MISTRAL_ARGS}
VOCABULARY = 408  # 400 tokens of the tokenizer, and those above


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The small tokenizer with the template and the special tokens of a format."""
    found = tiny.tokenizer()
    found.add_tokens(SPECIAL[name], special_tokens=True)
    found.chat_template = TEMPLATES[name]
    return found
