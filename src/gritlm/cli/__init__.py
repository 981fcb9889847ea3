"""The command line: one file a command, each parses, builds, calls and prints.

Nothing heavy is imported before a command's function runs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code (entry point ``gritlm``)."""
    from gritlm.cli.app import create_app

    create_app()(prog_name="gritlm")
