"""Pages of the reference, written from the program itself."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints
from unittest.mock import MagicMock

# Modules whose ``__all__`` is the public surface.
PUBLIC = (
    "gritlm",
    "gritlm.rag",
    "gritlm.train",
    "gritlm.evaluation",
    "gritlm.serve",
    "gritlm.adapt",
    "gritlm.scale",
)


def python() -> str:
    """Return the page of the public names, each from its docstring.

    Raises:
        ValueError: if a public class or function, or a public method of one, has no docstring.
    """
    about = "These names are the public interface. Everything else may move at any time."
    lines = ["# Python", "", about, ""]
    for name in PUBLIC:
        module = importlib.import_module(name)
        lines += [f"## `{name}`", "", str(module.__doc__).strip().split("\n\n")[0], ""]
        for public in sorted(module.__all__):
            value = getattr(module, public)
            if public.startswith("__"):
                continue
            place = f"{value.__module__}.{value.__qualname__}" if _is_documented(value) else None
            if place is None:
                lines += [f"### `{public}`", "", f"A value: `{value!r}`.", ""]
            else:
                _require_documented(value, place)
                lines += [f"::: {place}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def _is_documented(value: Any) -> bool:
    return hasattr(value, "__qualname__") and hasattr(value, "__module__")


def _require_documented(value: Any, place: str) -> None:
    names = {place: value}
    if inspect.isclass(value):
        names |= {
            f"{place}.{name}": each
            for name, each in vars(value).items()
            if name[0] != "_" and (inspect.isroutine(each) or isinstance(each, property))
        }
    missing = [name for name, each in names.items() if not inspect.getdoc(each)]
    if missing:
        raise ValueError(f"{', '.join(missing)}: no docstring; every public name needs one")


def command_line() -> str:
    """Return the page of all commands, from their own help."""
    import typer

    from gritlm.cli.app import create_app

    command = typer.main.get_command(create_app())
    return "\n".join(["# Command line", "", *_commands(command, "gritlm", 2)])


def _commands(command: Any, name: str, level: int) -> Iterator[str]:
    yield from [f"{'#' * level} `{name}`", "", _plain(command.help), ""]
    rows = [_option(each) for each in command.params if not getattr(each, "hidden", False)]
    if rows:
        yield from _table("| argument or option | | default |", rows)
    for child, each in sorted(getattr(command, "commands", {}).items()):
        if not each.hidden:
            yield from _commands(each, f"{name} {child}", min(level + 1, 4))


def _option(each: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
    if each.param_type_name == "argument":
        names = f"`{each.name.upper()}`"
    default = "" if each.default is None or callable(each.default) else f"`{each.default}`"
    return f"| {names} | {_plain(getattr(each, 'help', ''))} | {_cell(default)} |"


def _plain(text: str | None) -> str:
    return _cell(" ".join((text or "").replace("\b", "").split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def http() -> str:
    """Return the page of all endpoints, from the OpenAPI document of the server."""
    from gritlm.serve.app import create_app
    from gritlm.serve.config import ServerConfig

    # The routes keep the service for later requests; the schema needs only its settings.
    service = MagicMock(settings=ServerConfig())
    service.stores.engines = {}
    return _endpoints(create_app(service).openapi())


def _endpoints(schema: dict[str, Any]) -> str:
    about = (
        "The server describes itself at `/openapi.json`; `/docs` shows it. Fields without a "
        "description have the meaning of the API that the route belongs to, such as OpenAI's."
    )
    lines = ["# HTTP", "", about, ""]
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            lines += [f"## `{method.upper()} {path}`", "", _prose(about), ""]
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            lines += _fields(body.get("schema", {}), schema)
    return "\n".join(lines)


def _prose(about: dict[str, Any]) -> str:
    return _cell(about.get("description") or about.get("summary") or "")


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    name = body.get("$ref", "").rpartition("/")[2]
    shape = schema["components"]["schemas"].get(name, body)
    rows = [
        f"| `{field}` | {_kind(about)} | {_plain(about.get('description'))} |"
        for field, about in shape.get("properties", {}).items()
    ]
    return _table("| field | type | |", rows) if rows else []


def _kind(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return f"`{about['$ref'].rpartition('/')[2]}`"
    choices = about.get("anyOf") or about.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_kind(each) for each in choices))
    return f"`{about.get('type', 'any')}`"


def training_settings() -> str:
    """Return the page of the settings of a run file."""
    from gritlm.train import TrainConfig

    about = (
        "Sections and keys of a run file of `gritlm train`. Their meaning: [Train](../training.md)."
    )
    lines = ["# Settings of training", "", about, ""]
    return "\n".join([*lines, *_settings(TrainConfig, "")])


def _settings(kind: type, section: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    plain = [field for field in fields(kind) if not is_dataclass(hints[field.name])]
    if plain:
        yield from [f"## `[{section}]`" if section else "## Top level", ""]
        yield from _table("| key | type | default |", [_setting(field) for field in plain])
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from _settings(hints[field.name], f"{section}.{field.name}".lstrip("."))


def _setting(field: Any) -> str:
    default = "" if repr(field.default).startswith("<") else f"`{field.default!r}`"
    shown = str(field.type).replace("|", "\\|")
    return f"| `{field.name}` | `{shown}` | {_cell(default)} |"


def _table(head: str, rows: list[str]) -> list[str]:
    """Return the lines of a table whose names are not broken (site.css)."""
    rule = "|" + "---|" * (head.count("|") - 1)
    return ['<div class="reference" markdown>', "", head, rule, *rows, "", "</div>", ""]


def metrics() -> str:
    """Return the page of the metrics of the server, from its own registry."""
    from gritlm.serve.engine.scheduler import EngineStats
    from gritlm.serve.metrics import Metrics

    empty = EngineStats(**dict.fromkeys((field.name for field in fields(EngineStats)), 0))
    text = Metrics(lambda: empty).exposition().decode()
    rows = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, about = line.split(" ", 3)
            rows.append(f"| `{name}` | {_cell(about)} |")
    return "\n".join(["# Metrics", "", *_table("| metric at `/metrics` | |", rows)])
