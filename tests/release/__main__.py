"""Check of a release: ``python -m tests.release``, or ``make release-check``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.release.check import ROOT, check


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "release", help="folder")
    parser.add_argument("--extras", help="names with commas, or none; all when left out")
    parser.add_argument("--torch-options", default="", help="options of pip for PyTorch")
    return parser.parse_args(words)


def main() -> int:
    """Run the check, and return the exit code."""
    given = parse()
    return check(given.work, torch_options=given.torch_options, names=given.extras)


if __name__ == "__main__":
    raise SystemExit(main())
