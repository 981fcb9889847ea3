"""The command line: one file per command.

torch and transformers are imported inside the functions of the commands, so that ``--help`` is
fast.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code (entry point ``gritlm``)."""
    import gritlm
    from gritlm import distribution

    # Without a version, the first file of the package is the reference's.
    if not hasattr(gritlm, "__version__") and (why := distribution.conflict()):
        from gritlm.cli import logs

        logs.write_message("error", why)
        sys.exit(2)

    from gritlm.cli.app import create_app

    create_app()(prog_name="gritlm")
