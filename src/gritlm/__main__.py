"""``python -m gritlm`` is the command ``gritlm``."""

from gritlm.cli import main

if __name__ == "__main__":
    main()
