"""`python -m gspo`."""

import sys

from gspo.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
