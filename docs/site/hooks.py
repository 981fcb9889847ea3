"""Hooks of mkdocs for the pages of the site."""

from __future__ import annotations

import re
from typing import Any

# Roles of Sphinx in docstrings, which mkdocstrings leaves in the text.
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)~?")


def on_page_content(html: str, **_: Any) -> str:
    """Return the page without the roles in front of names."""
    return _ROLE.sub("", html)
