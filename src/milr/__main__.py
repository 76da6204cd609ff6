"""Entry point of `python -m milr`."""

import sys

from milr.cli.main import main

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
