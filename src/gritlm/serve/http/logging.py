"""Log lines with request ids: for people, or one JSON object a line."""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO
from uuid import uuid4

import orjson

from gritlm.printable import PrintableFormatter, printable_json

LOGGERS = ("gritlm", "uvicorn.error")
REQUEST_ID: ContextVar[str] = ContextVar("gritlm_request_id", default="")

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(given: str | None) -> str:
    """What the client calls its request, if that can stand in a log line; else a new id."""
    return given if given is not None and _ID.fullmatch(given) else f"req-{uuid4().hex}"


def configure(*, json: bool, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the lines of server and library to ``stream`` (stderr), in place of earlier handlers."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(_with_request_id)
    handler.setFormatter(_Json() if json else _Words())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True


class _Words(PrintableFormatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{time} {record.levelname.lower()}: {super().format(record)}"
        known = getattr(record, "request_id", "")
        return f"{line} [{known}]" if known else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := getattr(record, "request_id", ""):
            told["request_id"] = known
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return printable_json(orjson.dumps(told, default=str).decode())
