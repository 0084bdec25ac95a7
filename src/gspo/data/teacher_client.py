"""One response from an OpenAI-compatible endpoint: paced, and asked again when the failure may pass."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gspo.config.texts import text_problem
from gspo.data.rows import DataError
from gspo.data.teacher_journal import TeacherResponse
from gspo.shell import install_command

__all__ = ["Endpoint", "EndpointClient", "Refused", "Stopped"]

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds of back-off
_PASSING = (408, 409, 425, 429)  # with every 5xx: the same request may succeed later
_HOPELESS = (401, 404)  # a wrong key, address or model: no other row will fare better
_HOST_AND_PORT = re.compile(r"[\w.-]+(:\d+)?(/|$)")
_SHORTEST_SECRET = 8  # shorter keys are placeholders for servers that want none, and may be words of a message

_LONGEST_PROBLEM = 500  # characters of an endpoint's message that are kept


class Refused(Exception):
    """No response to this prompt; the message says why."""


class Stopped(Exception):
    """The collection was stopped while this request waited."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how responses are asked for.

    Attributes:
        base_url: of the API, such as http://localhost:8000/v1.
        model: the teacher's name there.
        api_key_env: the environment variable that holds the key.
        temperature: None leaves it to the endpoint.
        max_tokens: None leaves it to the endpoint.
        extra: further fields of each request's body.
        timeout: seconds for one request.
        retries: further attempts after a failure that may pass.
        requests_per_minute: evenly spaced, attempts counted; None does not pace.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] | None = None
    timeout: float = 120.0
    retries: int = 6
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        _check_address(self.base_url)
        if self.temperature is not None and self.temperature < 0:
            raise DataError(f"--temperature is {self.temperature}: give 0 or more")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise DataError(f"--max-tokens is {self.max_tokens}: give 1 or more")
        if self.timeout <= 0:
            raise DataError(f"--timeout is {self.timeout}: give a positive number of seconds")
        if self.retries < 0:
            raise DataError(f"--retries is {self.retries}: give 0 or more")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise DataError(f"--requests-per-minute is {self.requests_per_minute}: give a positive number")


def _check_address(address: str) -> None:
    """Holds that an address is one of an API, without repeating a secret in it.

    Raises:
        DataError: it is not; says how it is to be written.
    """
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:  # a port that is no number, or above 65535; brackets that do not close
        raise DataError(f"--base-url {address!r} is no address ({error}): correct it") from None
    if "@" in url.netloc or url.query:
        raise DataError("--base-url holds a user or a query, and would be stored: put the key in the environment")
    if url.scheme not in ("http", "https") or not url.hostname:
        near = f"http://{address}" if _HOST_AND_PORT.match(address) else "http://localhost:8000/v1"
        raise DataError(f"--base-url {address!r} is no address: name one such as {near}")
    for ending in ("/chat/completions", "/completions", "/models"):
        if url.path.rstrip("/").endswith(ending):
            shorter = address.rstrip("/").removesuffix(ending)
            raise DataError(f"--base-url {address!r} names one of the API's methods: take {ending} off, {shorter}")
    if port == 0:
        raise DataError(f"--base-url {address!r} has port 0, which nothing listens on: name the server's")


class _Passing(Exception):
    """A failure that may pass.

    Attributes:
        advised: seconds that the endpoint asks to wait.
    """

    def __init__(self, problem: str, advised: float = 0.0) -> None:
        super().__init__(problem)
        self.advised = advised


class EndpointClient:
    """Asks an endpoint, from several threads at once.

    `stop()` ends all waiting: requests that wait for their turn or for a further attempt raise `Stopped`.
    """

    def __init__(self, endpoint: Endpoint, say: Callable[[str], None] = lambda _: None) -> None:
        """Takes the key from the environment.

        Args:
            endpoint: which service, and how it is asked.
            say: is told once that the endpoint does not answer, when it is to be asked again.

        Raises:
            DataError: a package is missing, or the environment has no key.
        """
        try:
            import openai
            import tenacity
        except ImportError as error:
            raise DataError(
                f"`gspo data teacher` needs the package {error.name}: install it by `{install_command('teacher')}`"
            ) from error
        self._key = os.environ.get(endpoint.api_key_env, "").strip()
        if not self._key:
            raise DataError(
                f"the environment has no {endpoint.api_key_env}: export it, or name another variable with "
                "--api-key-env (for a server that wants no key any text will do)"
            )
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise DataError(
                f"the key in {endpoint.api_key_env} holds a sign that no key has (a space, a line's end, a typographic "
                "quote): export it again, in straight quotes"
            )
        self._endpoint = endpoint
        self._openai = openai
        self._say = say
        self._has_said = False
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(endpoint.retries + 1),
            wait=_seconds_to_wait,
            sleep=self._wait,  # not the library's, which no Ctrl-C would end
            retry=tenacity.retry_if_exception_type(_Passing),
            before_sleep=self._before_sleep,
            reraise=True,
        )
        self._client = openai.OpenAI(
            base_url=endpoint.base_url, api_key=self._key, timeout=endpoint.timeout, max_retries=0
        )
        self._stopped = threading.Event()
        self._turn_lock = threading.Lock()
        self._next_turn = 0.0

    def stop(self) -> None:
        """Ends all waiting; no request starts after this."""
        self._stopped.set()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def ask(
        self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> TeacherResponse:
        """The response to a conversation, with the tools that it may call.

        Raises:
            Refused: the endpoint has none, even after every attempt.
            DataError: the key, the address or the model is wrong.
            Stopped: `stop` was called.
        """
        try:
            response: TeacherResponse = self._retrying(self._attempt, messages, tools)
        except _Passing as failure:
            raise Refused(self._clean(f"{failure} ({self._endpoint.retries + 1} attempts)")) from None
        return response

    def _attempt(
        self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] | None
    ) -> TeacherResponse:
        """One request, in its turn; raises `_Passing` where the same one may succeed later."""
        self._wait_for_turn()
        try:
            return self._request(messages, tools)
        except self._openai.APIStatusError as error:
            raise self._judge(error) from None
        except self._openai.APITimeoutError:
            raise _Passing(f"no reply in {self._endpoint.timeout:g} s (--timeout)") from None
        except self._openai.APIConnectionError as error:
            cause = f": {error.__cause__}" if error.__cause__ is not None else ""
            raise _Passing(f"{self._endpoint.base_url} cannot be reached ({error}{cause})") from None
        except (self._openai.APIResponseValidationError, ValueError) as error:
            # A body that is no reply: gateways send these for a while.
            raise _Passing(f"{type(error).__name__}: {error}") from None

    def _before_sleep(self, state: Any) -> None:
        """Says once what is waited for: a wrong address looks like a server that is busy."""
        if not self._has_said:
            self._has_said = True
            problem = self._clean(str(state.outcome.exception()))
            retries = self._endpoint.retries
            self._say(f"{problem}: asked again up to {retries} times, --retries; Ctrl-C ends it and loses nothing")

    def _request(
        self, messages: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]] | None
    ) -> TeacherResponse:
        endpoint = self._endpoint
        options = {"temperature": endpoint.temperature, "max_tokens": endpoint.max_tokens, "tools": tools}
        reply = self._client.chat.completions.create(
            model=endpoint.model,
            messages=[dict(message) for message in messages],
            extra_body=dict(endpoint.extra or {}),
            **{key: value for key, value in options.items() if value is not None},
        )
        choices = getattr(reply, "choices", None)  # a reply of another form is passed through as it came
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            raise ValueError("the reply has no message")
        reason, text = getattr(choice, "finish_reason", None), getattr(message, "content", None)
        if reason == "content_filter":
            raise Refused("the endpoint's content filter withheld the response")
        if not text and getattr(message, "tool_calls", None):
            raise Refused(
                "the teacher calls a tool and writes no text: a response is a text; leave the row's tools out"
            )
        if not isinstance(text, str) or not text.strip():
            raise Refused(f"the response is empty (finish_reason {reason}): raise --max-tokens where it is length")
        if problem := text_problem(text, "the response"):
            raise Refused(problem)
        return TeacherResponse(text, reason)

    def _judge(self, error: Any) -> _Passing:
        """The failure of a status that may pass; raises where waiting does not help."""
        said = error.body.get("message") if isinstance(error.body, dict) else None
        problem = self._clean(f"HTTP {error.status_code}: {said or error.message}")
        if error.status_code in _HOPELESS:
            address = self._endpoint.base_url
            bare = not urlsplit(address).path.strip("/")
            ending = f" (most servers want {address.rstrip('/')}/v1)" if bare and error.status_code == 404 else ""
            raise DataError(
                f"{address} answers {problem}; see --base-url{ending}, --model and the key in "
                f"{self._endpoint.api_key_env}. What was collected is kept: the same command goes on from there"
            ) from None
        if error.status_code not in _PASSING and error.status_code < 500:
            raise Refused(problem) from None
        advised = error.response.headers.get("retry-after", "")
        return _Passing(problem, float(advised) if advised.isdigit() else 0.0)

    def _wait_for_turn(self) -> None:
        if self._endpoint.requests_per_minute is not None:
            with self._turn_lock:
                turn = max(self._next_turn, time.monotonic())
                self._next_turn = turn + 60 / self._endpoint.requests_per_minute
            self._wait(turn - time.monotonic())
        if self._stopped.is_set():
            raise Stopped

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._stopped.wait(seconds):
            raise Stopped

    def _clean(self, text: str) -> str:
        """An endpoint may repeat the key in its message, or send a page of HTML."""
        text = text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_SECRET else text
        return text if len(text) <= _LONGEST_PROBLEM else text[:_LONGEST_PROBLEM] + " ..."


def _seconds_to_wait(state: Any) -> float:
    """Before the next attempt of tenacity's: the back-off, and at least what the endpoint asks for."""
    return max(_delay(state.attempt_number - 1), state.outcome.exception().advised)


def _delay(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, and drawn from its upper half so that threads spread."""
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt) * random.uniform(0.5, 1.0))
