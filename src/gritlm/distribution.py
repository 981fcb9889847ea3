"""Name of the installed distribution, and install commands for its extras.

The distribution ``gritlm`` on the package index is the reference implementation. Its import package
has the same name: if both are installed, one has overwritten files of the other.
"""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path

NAME = "gritlm-unified"
REFERENCE = "gritlm"
PACKAGE = Path(__file__).parent
_COMMAND = "gritlm.cli:main"  # entry point that identifies this project


def install_hint(extra: str = "") -> str:
    """Return the pip command that installs this copy of gritlm with an extra.

    The command names the origin of this copy: a checkout, a repository, a file or an index.

    Args:
        extra: name of the extra; empty for none.
    """
    extras = f"[{extra}]" if extra else ""
    checkout = PACKAGE.parents[1]
    if (checkout / "pyproject.toml").is_file():
        place = "." if checkout == Path.cwd() else str(checkout)
        return f"pip install -e {_quoted(f'{place}{extras}')}"
    try:
        source = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return f"pip install -e {_quoted(f'.{extras}')} in a checkout of gritlm"
    origin = f" @ {_address(json.loads(source))}" if source else ""
    return f"pip install {_quoted(f'{NAME}{extras}{origin}')}"


def conflict() -> str | None:
    """Return a warning about the reference implementation; None if it is not installed."""
    try:
        other = metadata.distribution(REFERENCE)
    except metadata.PackageNotFoundError:
        return None
    if any(entry.value == _COMMAND for entry in other.entry_points):
        return None  # this project, installed under its former name
    return (
        f"the reference implementation ({REFERENCE} {other.version}) is installed too and replaces "
        f"files of this package; the files in use are in {PACKAGE}; run: pip uninstall -y "
        f"{REFERENCE} && {install_hint()}"
    )


def _address(origin: dict[str, dict[str, str] | str]) -> str:
    """Return the address in a ``direct_url.json`` (PEP 610) in the syntax of requirements."""
    repository = origin.get("vcs_info")
    if not isinstance(repository, dict):
        return str(origin["url"])
    return f"{repository['vcs']}+{origin['url']}@{repository['commit_id']}"


def _quoted(requirement: str) -> str:
    """Quote a requirement for the shell, always: shells expand brackets."""
    quoted = shlex.quote(requirement)
    return quoted if quoted.startswith("'") else f"'{quoted}'"
