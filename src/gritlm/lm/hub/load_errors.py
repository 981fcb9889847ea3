"""Conversion of library exceptions to messages of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gritlm.errors import GritLMError, ModelError, one_line

# Classes with readable messages; other messages get the name of their class as a prefix.
_SENTENCES = (OSError, ValueError, RuntimeError, ImportError)


_PANIC = "PanicException"  # in Rust libraries, a subclass of BaseException


@contextmanager
def explained(source: str, part: str = "") -> Iterator[None]:
    """Turn any exception about a checkpoint or adapter into a :class:`ModelError` of one line.

    transformers, tokenizers, peft, safetensors and torch raise dozens of classes for damaged
    files, and new versions add more, so all exceptions are caught.

    Args:
        source: folder or hub id that is loaded.
        part: part of the checkpoint that is loaded, such as "config.json".
    """
    try:
        yield
    except GritLMError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise  # ctrl-C and the like
        raise ModelError(_explanation(source, part, error)) from error


def _explanation(source: str, part: str, error: BaseException) -> str:
    folder = Path(source)
    reason = _reason(error)
    if "trust_remote_code" in reason:
        return (
            f"{source}: its config asks for code from the checkpoint, which gritlm never runs, and "
            "transformers has no class of its own for it"
        )
    if folder.is_dir() and not any(folder.glob("*.safetensors*")):
        if any(folder.glob("*.bin")):
            return (
                f"{source}: only .bin (pickle) weights, which can carry code; convert them with "
                "transformers: model.save_pretrained(folder, safe_serialization=True)"
            )
        return f"{source}: no *.safetensors file in this folder"
    if type(error).__name__ == "SafetensorError":
        return f"{source}: a weights file is truncated or damaged ({reason}); download it again"
    if not folder.exists() and ("not a local folder" in reason or "connect" in reason.lower()):
        return (
            f"{source!r} is neither a folder here nor a model that can be fetched "
            f"({reason[:200]}); check the path, or the name and the network"
        )
    return f"{source}: {part or 'it'} cannot be loaded ({reason}); restore it or download it again"


def _reason(error: BaseException) -> str:
    text = one_line(error)
    return text if isinstance(error, _SENTENCES) and text else f"{type(error).__name__}: {text}"
