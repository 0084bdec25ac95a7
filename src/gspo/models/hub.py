"""Whether a model that is named and not on this machine can be fetched, found out before anything tries for long."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache

from gspo.config.texts import first_line
from gspo.shell import environment_command

__all__ = ["HubError", "require_hub"]

_SECONDS = 5.0
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
# What the hub says in its header of a model that is not there, or wants a login.
_CLOSED = ("RepoNotFound", "GatedRepo")
_FILES = ("config.json", "tokenizer_config.json")


class HubError(ValueError):
    """A hub name was given and the hub does not answer."""


def require_hub(name: str) -> None:
    """Holds that the Hugging Face hub answers, where `name` is no folder and has to come from there, and has the model.

    One question and no repetition: the loaders ask again and again for a minute. With HF_HUB_OFFLINE=1 they read the
    cache alone, which then must have it.

    Raises:
        HubError: it does not, or has no such model; says how to go on.
    """
    if page := _PAGE.match(name):
        raise HubError(f"{name} is the page of a model, which is named by its name alone: {page[1]}")
    if Path(name).exists() or _looks_local(name):
        return
    if not _HUB_NAME.fullmatch(name):
        raise HubError(f"there is no folder {name} here, and no model of the hub can have that name: name either")
    if constants.HF_HUB_OFFLINE:
        if not _cached(name):
            raise HubError(
                f"there is no folder {name} here, the hub is not asked (HF_HUB_OFFLINE=1), and its cache has no copy: "
                f"unset HF_HUB_OFFLINE, or bring the folder that `{environment_command('hf', 'download', name)}` makes "
                "on a machine with a connection, and name that"
            )
        return
    try:
        reply = get_session().head(f"{constants.ENDPOINT}/{name}/resolve/main/config.json", timeout=_SECONDS)
    except Exception as error:  # of the library's HTTP client, which is another one in each of its major versions
        no_copy = "there is no copy in the cache either"
        offline = "HF_HUB_OFFLINE=1 takes the copy in the cache" if _cached(name) else no_copy
        raise HubError(
            f"there is no folder {name} here, and the hub, {constants.ENDPOINT}, does not answer "
            f"({first_line(error)}): give the folder of a model, as in ./{Path(name).name}; {offline}"
        ) from error
    if (problem := reply.headers.get("X-Error-Code")) in _CLOSED and not _cached(name):
        raise HubError(
            f"there is no folder {name} here, and the hub, {constants.ENDPOINT}, shows no such model ({problem}): "
            f"correct the name, or where it wants a login: `{environment_command('hf', 'auth', 'login')}`"
        )


def _cached(name: str) -> bool:
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in _FILES)


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1
