"""Whether a model that is named and not on this machine can be fetched, found out before anything tries for long."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache

__all__ = ["HubError", "require_hub"]

_SECONDS = 5.0


class HubError(ValueError):
    """A hub name was given and the hub does not answer."""


def require_hub(name: str) -> None:
    """Holds that the Hugging Face hub answers, where `name` is no folder and has to come from there.

    One question and no repetition: the loaders ask again and again for a minute. With HF_HUB_OFFLINE=1 there is nothing
    to hold, as they read the cache alone.

    Raises:
        HubError: it does not answer; says how to go on without it.
    """
    if constants.HF_HUB_OFFLINE or Path(name).exists() or _looks_local(name):
        return
    try:
        get_session().head(f"{constants.ENDPOINT}/{name}/resolve/main/config.json", timeout=_SECONDS)
    except Exception as error:  # of the library's HTTP client, which is another one in each of its major versions
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
        offline = "HF_HUB_OFFLINE=1 takes the copy in the cache" if cached else "there is no copy in the cache either"
        raise HubError(
            f"there is no folder {name} here, and the hub, {constants.ENDPOINT}, does not answer "
            f"({_first_line(error)}): give the folder of a model, as in ./{Path(name).name}; {offline}"
        ) from error


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
