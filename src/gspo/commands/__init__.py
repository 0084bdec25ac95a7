"""What each subcommand of `gspo` does; `gspo.cli` parses the arguments."""

__all__: list[str] = []
