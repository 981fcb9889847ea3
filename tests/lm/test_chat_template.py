"""Chat templates of checkpoints: rendered as transformers renders them, and within bounds."""

from __future__ import annotations

import time

import pytest

from gritlm.errors import InputError
from gritlm.lm.chat_template import render, template_variables
from tests import tiny

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi <b>"}]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}TEXT{% endfor %}{% endfor %}"
GROWS = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = STEP %}{% endfor %}"
CALLS = "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}"

FINE = {
    "loop": tiny.CHAT,
    "loop variables": (
        "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}"
        "{{ loop.revindex }}{{ loop.previtem }}{% else %}none{% endfor %}"
    ),
    "filter in a loop": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    "concatenation": "{{ bos_token ~ messages[0].content ~ 5 ~ none }}",
    "pairs": "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }}{{ messages|tojson(indent=2) }}",
    "operators": "{{ 'ab' * 3 }}{{ '%s-%s' % (1, 2) }}{{ 2 ** 10 }}{{ [1] + [2] }}{{ 7 % 4 }}",
    "namespace": "{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}",
    "break": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "macro": "{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f(messages[1].content.strip()) }}",
    "generation": "{% generation %}{{ messages[1].content }}{% endgeneration %}",
    "prompt": "{% if add_generation_prompt %}>{% endif %}{{ eos_token }}{{ tools is none }}",
}
ENDLESS = {
    "loops": (LOOPS.replace("TEXT", ""), "more than 1,000,000 steps"),
    "calls": (CALLS, "more than 1,000,000 steps"),
    "text": (LOOPS.replace("TEXT", "abcdefgh"), "characters"),
    "repetition": ("{{ 'a' * 10**9 }}", "characters"),
    "a power": ("{{ 10 ** 10 ** 10 }}", "raises to a power"),
    "a width": ("{{ 'a'.ljust(10**9) }}", "a number above 100,000"),
    "a width of a filter": ("{{ 'a'|center(1000000000) }}", "a number above 100,000"),
    "a format": ("{{ '%1000000000d' % 1 }}", "a number above 100,000"),
    "sums": (GROWS.replace("STEP", "n.x + n.x") + "{{ n.x }}", "characters"),
    "concatenations": (GROWS.replace("STEP", "n.x ~ n.x") + "{{ n.x }}", "characters"),
    "joined lists": (GROWS.replace("STEP", "[n.x, n.x]|join") + "{{ n.x }}", "characters"),
}
FAILING = {
    "undefined": ("{{ nothing() }}", "UndefinedError: 'nothing' is undefined"),
    "raised": ("{{ raise_exception('only users\n\x1b[31m') }}", r"only users \x1b[31m"),
    "zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "types": ("{{ 'a' + 1 }}", "TypeError"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "a way out": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "a file": ("{% include '/etc/passwd' %}", "cannot render"),
    "syntax": ("\n{% for x in %}", "syntax error in line 2"),
    "an unknown filter": ("{{ 1|nothing }}", "No filter named 'nothing'"),
}


def written(template: str) -> str:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return render(tokenizer, MESSAGES, answer=True)


@pytest.mark.parametrize("template", FINE.values(), ids=FINE.keys())
def test_a_template_is_rendered_as_transformers_renders_it(template):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert written(template) == expected


THINKS = "{{ mood|default('calm') }}{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_gets_the_variables_that_it_uses():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = THINKS + "{{ eos_token }}{{ raise_exception if tools else '' }}"
    assert template_variables(tokenizer) == {"mood"}
    variables = {"mood": "wild", "unused": 1}
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, **variables)
    assert render(tokenizer, MESSAGES, answer=False, variables=variables) == expected
    assert expected.startswith("wild")
    tokenizer.chat_template = None
    assert template_variables(tokenizer) == frozenset()


def test_a_variable_counts_as_text_for_the_bounds():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ mood }}"
    long = "x" * 1_500_000
    assert render(tokenizer, MESSAGES, answer=True, variables={"mood": long}) == long


@pytest.mark.parametrize(("template", "said"), ENDLESS.values(), ids=ENDLESS.keys())
def test_a_template_that_does_too_much_is_stopped(template, said):
    begin = time.monotonic()
    with pytest.raises(InputError, match=said):
        written(template)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(("template", "said"), FAILING.values(), ids=FAILING.keys())
def test_a_template_that_fails_says_why_in_one_line(template, said):
    with pytest.raises(InputError) as caught:
        written(template)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_long_messages_leave_room_for_long_texts():
    tokenizer = tiny.tokenizer()
    messages = [{"role": "user", "content": "word " * 400_000}]
    assert len(render(tokenizer, messages, answer=True)) > 2_000_000
