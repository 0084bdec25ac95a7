"""Which files hold rows, and what to do with one that does not: it is looked at before it is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from gspo.shell import environment_command, gspo_command, python_command

__all__ = ["DELIMITED", "DataError", "check_path", "kind"]

SUFFIXES = (".parquet", ".json", ".jsonl")
# Files of columns, which `gspo data jsonl` makes rows of.
DELIMITED = (".csv", ".tsv")
_COMPRESSED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".tar", ".tgz")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# A path has one / where an address has two.
_ADDRESS = re.compile(r"(https?|hf|s3|gs|ftp):/")
_HUB_PAGE = re.compile(r"/?(?:huggingface\.co/)?datasets/([\w.-]+/[\w.-]+)")
_MOST_LISTED = 8


class DataError(ValueError):
    """A file or a row that cannot be used; the message names it and says what to do."""

    @classmethod
    def at(cls, label: str, row: int, problem: str) -> DataError:
        """The error of one row. `label` is the file; `row` counts from 0, as in the file."""
        return cls(f"{label}, row {row} (counted from 0): {problem}")


def kind(path: Path) -> str:
    """The ending of a file's name, with its dot, in lower case."""
    return path.suffix.lower()


def check_path(path: Path, also: tuple[str, ...] = ()) -> None:
    """Holds that a path leads to a file of rows, as far as its name, its size and its folder tell.

    Args:
        path: of a .parquet, .json or .jsonl file.
        also: further endings that are read.

    Raises:
        DataError: it is no such file; says what it is and what to do.
    """
    if path.is_dir():
        raise DataError(f"{path} {_folder(path)}")
    if address := _ADDRESS.match(str(path)):
        raise DataError(f"{address[0]}/{str(path)[address.end() :]} {_address(str(path)[address.end() :])}")
    if str(path).lower() in ("none", "null", "false"):
        raise DataError(f"a data file is called {path}, and there is none of that name: for no file write []")
    if any(sign in path.name for sign in "*?") and not path.exists():
        raise DataError(f"{path} {_pattern(path)}")
    if kind(path) not in (*SUFFIXES, *also):
        raise DataError(f"{path} {_other(path) if path.exists() or path.suffix else _not_there(path)}")
    if not path.exists():
        raise DataError(f"{path} {_missing(path)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is an empty file: write it again")


def _address(rest: str) -> str:
    """About an address on the web, by what stands behind its scheme."""
    hub = _HUB_PAGE.match(rest)
    return (
        _of_hub(hub[1]) if hub else "is an address, and files are read from this machine: fetch it, and name the file"
    )


def _folder(path: Path) -> str:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        split = "['train']" if (path / "dataset_dict.json").is_file() else ""
        program = f"import datasets; datasets.load_from_disk('{path}'){split}.to_parquet('{path}.parquet')"
        command = f'{python_command()} -c "{program}"'
        return f"is a data set of save_to_disk: write it as a file, by `{command}`, and name that"
    return f"is a folder: name the files in it ({_listing(_files_in(path))})"


def _pattern(path: Path) -> str:
    found = sorted(str(file) for file in path.parent.glob(path.name) if kind(file) in SUFFIXES)
    remedy = f"as in [{','.join(found[:_MOST_LISTED])}]" if found else "of which there is none that fits"
    return f"is a pattern, and files are named one by one: write a list of them, {remedy}"


def _other(path: Path) -> str:
    """About a file of another kind, or one that its ending says to be."""
    what = f"is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
    if kind(path) in DELIMITED:
        command = gspo_command("data", "jsonl", path, "--out", path.with_suffix(".parquet"))
        return f"{what}: `{command}` makes one of it (--prompt-key and --answer-key name its columns)"
    if kind(path) in _COMPRESSED:
        return f"{what}: unpack it, and name what was in it"
    return f"{what}: convert it to one of them"


def _not_there(path: Path) -> str:
    """About a name without an ending of which there is no file, as data sets of the hub have it."""
    name = str(path)
    is_of_hub = _HUB_NAME.fullmatch(name)
    return _of_hub(name) if is_of_hub else "does not exist: name a .parquet, .json or .jsonl file"


def _of_hub(name: str) -> str:
    last = name.rpartition("/")[2]
    folder = f"data/{last}"
    if last == "gsm8k":
        command = gspo_command("data", "gsm8k", "--source", "openai/gsm8k", "--out", folder)
        return f"is no file here, and data sets of the hub are not read by name: `{command}` writes it as files"
    command = environment_command("hf", "download", name, "--repo-type", "dataset", "--local-dir", folder)
    return (
        f"is no file here, and data sets of the hub are not read by name: `{command}` fetches one; name a file of it, "
        "whose columns docs/data.md tells"
    )


def _missing(path: Path) -> str:
    found = _files_in(path.parent)
    stems = {Path(name).stem: name for name in found}
    near = get_close_matches(path.stem, list(stems), n=1, cutoff=0.75)
    hint = f": did you mean {path.parent / stems[near[0]]}? Data" if near else "; data"
    return f"does not exist{hint} files in its folder: {_listing(found)}"


def _files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.glob("*") if kind(entry) in SUFFIXES)


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
