"""What a message is checked for: the place, the key and the remedy, not its sentence."""

from __future__ import annotations

__all__ = ["facts", "names"]


def names(said: object, *parts: object) -> bool:
    """Whether a message (an error, or a text) has each of these parts; it is one line, without a traceback.

    Raises:
        AssertionError: a part is missing, or the message has several lines; it shows the message.
    """
    text = str(getattr(said, "value", said)).strip()
    missing = [str(part) for part in parts if str(part) not in text]
    assert not missing, f"{missing} not in {text!r}"
    assert "\n" not in text, f"several lines: {text!r}"
    return True


def facts(example: str) -> list[str]:
    """The words of an example of a message that are no plain words: paths, keys, numbers and values.

    The sentence around them may change without a test that fails.
    """
    words = [word.strip(".,:;()") for word in example.replace("...", " ").split()]
    return [word for word in words if not word.isalpha() and any(sign in word for sign in "._=/0123456789'")]
