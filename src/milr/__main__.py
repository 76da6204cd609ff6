"""`python -m milr` is `milr`."""

import sys

from milr.cli.main import main

if __name__ == "__main__":  # processes of a pool import this module again
    sys.exit(main())
