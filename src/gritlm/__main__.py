"""Entry point of ``python -m gritlm``, the same as the command ``gritlm``."""

from gritlm.cli import main

if __name__ == "__main__":
    main()
