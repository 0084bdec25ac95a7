"""verl's entry point: `python -m gspo.trainer.main_ppo --config-path DIR --config-name NAME key=value ...`."""

from __future__ import annotations

import sys

__all__: list[str] = []

if __name__ == "__main__":
    from gspo.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
