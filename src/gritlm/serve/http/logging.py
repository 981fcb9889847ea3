"""Logging with request ids, as text or as one JSON object a line."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from gritlm.printable import PrintableFormatter, printable_json

LOGGERS = ("gritlm", "uvicorn.error", "opentelemetry")
REQUEST_ID: ContextVar[str] = ContextVar("gritlm_request_id", default="")


def configure(*, json: bool, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Log the lines of server and library to a stream; this replaces their earlier handlers.

    Args:
        json: whether each line is a JSON object.
        level: the lowest level that is logged.
        stream: where to write; None for stderr.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(_with_request_id)
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True


class _TextFormatter(PrintableFormatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{time} {record.levelname.lower()}: {super().format(record)}"
        known = getattr(record, "request_id", "")
        return f"{line} [{known}]" if known else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := getattr(record, "request_id", ""):
            entry["request_id"] = known
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return printable_json(orjson.dumps(entry, default=str).decode())
