"""`gspo data teacher` against a fake endpoint on this machine: failures, pacing, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.cli import main
from gspo.data import teacher_client
from gspo.data.rows import DataError
from gspo.data.teacher import Collected, collect_teacher
from gspo.data.teacher_client import Endpoint
from gspo.shell import install_command

pytest.importorskip("openai")
KEY = "sk-secret-0123456789"
Reply = tuple[int, dict[str, str], bytes]


def said(text: str | None, finish_reason: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, json.dumps(body).encode()


def failed(status: int, message: str = "no", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class FakeEndpoint(ThreadingHTTPServer):
    """Answers the question in the last message; `scripts` gives the first replies to a question.

    Attributes:
        bodies: every request's body, in order.
        times: when each came, in seconds.
        delay: seconds before a reply.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.authorisations: set[str] = set()
        self.scripts: dict[str, list[Reply]] = {}
        self.delay = 0.0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def questions(self) -> Counter[str]:
        return Counter(body["messages"][-1]["content"] for body in self.bodies)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with server.lock:
            server.bodies.append(body)
            server.times.append(time.monotonic())
            server.authorisations.add(self.headers["Authorization"])
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            script = server.scripts.get(question)
            status, headers, content = script.pop(0) if script else said(f"answer to {question}")
        time.sleep(server.delay + float(headers.pop("sleep", 0)))
        with server.lock:
            server.under_way -= 1
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


@pytest.fixture
def collect(
    server: FakeEndpoint, tmp_path: Path, write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Collected]:
    """Collects for the questions q0, q1, ... with a quick back-off."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(teacher_client, "_FIRST_DELAY", 0.01)

    def run(
        num_rows: int = 3, *, prompts: Path | None = None, options: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        path = prompts or write_rows(*[{"prompt": f"q{row}", "number": row} for row in range(num_rows)])
        endpoint = Endpoint(**{"base_url": server.url, "model": "wise", **(options or {})})
        return collect_teacher(path, tmp_path / "out.parquet", endpoint, **more)

    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def texts_of(path: Path) -> list[str]:
    return [row["teacher_response"] for row in rows_of(path)]


def journal_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out.parquet.journal.jsonl").read_text().splitlines()]


def test_rows_keep_their_columns_and_order(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    collected = collect(3, concurrency=3)
    assert rows_of(collected.path) == [
        {
            "prompt": f"q{row}",
            "number": row,
            "teacher_response": f"answer to q{row}",
            "teacher_sample": 0,
            "teacher_finish_reason": "stop",
        }
        for row in range(3)
    ]
    assert str(collected) == f"{collected.path}: 3 rows"
    assert server.authorisations == {f"Bearer {KEY}"}


def test_the_request(collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]) -> None:
    prompts = write_rows(
        {"content": [{"role": "user", "content": "a"}], "extra_info": {}},
        {"content": [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}], "extra_info": {}},
        name="chat.jsonl",
    )
    options = {"temperature": 0.5, "max_tokens": 7, "extra": {"top_k": 3}}
    collected = collect(prompts=prompts, options=options, prompt_key="content", system_prompt="be wise", concurrency=1)
    asked = {"model": "wise", "temperature": 0.5, "max_tokens": 7, "top_k": 3}
    user, own = [{"role": "user", "content": "a"}], [{"role": "system", "content": "own"}]
    assert server.bodies == [
        {**asked, "messages": [{"role": "system", "content": "be wise"}, *user]},
        {**asked, "messages": [*own, {"role": "user", "content": "b"}]},
    ]
    assert [row["extra_info"] for row in rows_of(collected.path)] == [None, None]


def test_what_is_not_set_is_left_to_the_endpoint(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    collect(1)
    assert server.bodies == [{"model": "wise", "messages": [{"role": "user", "content": "q0"}]}]


def test_several_responses_are_a_row_each_and_may_be_raised_later(
    collect: Callable[..., Collected], server: FakeEndpoint
) -> None:
    server.scripts["q0"] = [said("one"), said("two", "length"), said("three")]
    first = collect(2, n=2, concurrency=1)
    assert texts_of(first.path) == ["one", "two", "answer to q1", "answer to q1"]
    assert [row["teacher_sample"] for row in rows_of(first.path)] == [0, 1, 0, 1]
    assert str(first).splitlines()[1] == "  1 responses were cut at the limit of tokens (teacher_finish_reason length)"
    second = collect(2, n=3, concurrency=1)
    assert texts_of(second.path) == ["one", "two", "three", "answer to q1", "answer to q1", "answer to q1"]
    assert server.questions() == {"q0": 3, "q1": 3}


def test_failures_that_pass_are_asked_again(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    late = said("too late")
    server.scripts = {
        "q0": [failed(429), failed(500), failed(503)],
        "q1": [(200, {}, b"{cut"), (200, {}, b'{"choices": []}'), (200, {"Content-Type": "text/html"}, b"<html>")],
        "q2": [(late[0], {"sleep": "0.6"}, late[2]), failed(408)],
    }
    collected = collect(3, options={"timeout": 0.3})
    assert collected.failures == ()
    assert texts_of(collected.path) == ["answer to q0", "answer to q1", "answer to q2"]
    assert server.questions() == {"q0": 4, "q1": 4, "q2": 3}


def test_the_endpoint_s_own_delay_is_kept(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    server.scripts["q0"] = [failed(429, retry_after="1")]
    collect(1)
    assert server.times[1] - server.times[0] >= 1


def test_the_back_off_doubles_up_to_its_limit_with_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_client.random, "uniform", lambda _low, high: high)
    assert [teacher_client._delay(attempt) for attempt in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    monkeypatch.setattr(teacher_client.random, "uniform", lambda low, _high: low)
    assert teacher_client._delay(3) == 4


def test_failures_that_stay_are_reported_and_the_rest_is_kept(
    collect: Callable[..., Collected], server: FakeEndpoint, tmp_path: Path
) -> None:
    server.scripts = {
        "q0": [failed(400, f"bad prompt from {KEY}")],
        "q1": [failed(500, "down")] * 3,
        "q2": [said(" ", "length")],
        "q3": [said("hidden", "content_filter")],
    }
    collected = collect(5, options={"retries": 2})
    problems = [
        "HTTP 400: bad prompt from [key]",
        "HTTP 500: down (3 attempts)",
        "the response is empty (finish_reason length): raise --max-tokens where it is length",
        "the endpoint's content filter withheld the response",
    ]
    assert collected.failures == tuple((row, 0, problem) for row, problem in enumerate(problems))
    assert str(collected).splitlines() == [
        f"{collected.path}: 1 rows",
        *[f"  row {row}, response 0: {problem}" for row, problem in enumerate(problems)],
        "  4 responses are missing: the same command asks for them again",
    ]
    assert texts_of(collected.path) == ["answer to q4"]
    noted = {entry["row"]: entry["error"] for entry in journal_of(tmp_path) if "error" in entry}
    assert noted == dict(enumerate(problems))
    assert KEY not in "".join(path.read_text(errors="replace") for path in tmp_path.iterdir())
    assert texts_of(collect(5).path) == [f"answer to q{row}" for row in range(5)]
    assert server.questions()["q4"] == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_stops_at_once(
    collect: Callable[..., Collected], server: FakeEndpoint, tmp_path: Path, status: int
) -> None:
    server.scripts = {f"q{row}": [failed(status, f"wrong {KEY}")] for row in range(1, 50)}
    with pytest.raises(DataError) as caught:
        collect(50, concurrency=1)
    remedies = ("--base-url", "--model", "OPENAI_API_KEY", "the same command goes on")
    assert names(caught, f"{server.url} answers HTTP {status}: wrong [key]", *remedies)
    assert len(server.bodies) == 2
    assert not (tmp_path / "out.parquet").exists()
    server.scripts = {}
    assert len(texts_of(collect(50).path)) == 50
    assert server.questions()["q0"] == 1


def test_requests_are_paced(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    collect(6, options={"requests_per_minute": 1200}, concurrency=4)
    assert server.times[-1] - server.times[0] >= 0.2  # six requests, 50 ms apart: 250 ms less what the first one took


def test_no_more_requests_at_once_than_asked_for(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    server.delay = 0.03
    collect(9, concurrency=3)
    assert server.most_under_way == 3


def test_a_killed_collection_goes_on_without_a_lost_or_a_repeated_row(
    server: FakeEndpoint, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    prompts, out = write_rows(*[{"prompt": f"q{row}"} for row in range(30)]), tmp_path / "out.parquet"
    journal = tmp_path / "out.parquet.journal.jsonl"
    server.delay = 0.02
    arguments = ["data", "teacher", str(prompts), "--base-url", server.url, "--model", "wise", "--out", str(out)]
    command = [sys.executable, "-m", "gspo", *arguments, "--concurrency", "2", "--api-key-env", "THE_KEY"]
    environment = {**os.environ, "THE_KEY": KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 8) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = journal.read_bytes()
    assert 8 < before.count(b"\n") < 30
    assert not out.exists()
    journal.write_bytes(before + b'{"row": 29, "sample": 0, "te')  # as if the kill had come within a write
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{out}: 30 rows\n"), done.stderr
    assert journal.read_bytes().startswith(before)
    assert [(row["prompt"], row["teacher_response"]) for row in rows_of(out)] == [
        (f"q{row}", f"answer to q{row}") for row in range(30)
    ]
    entries = journal_of(tmp_path)
    assert sorted(entry["row"] for entry in entries[1:]) == list(range(30))
    assert sum(server.questions().values()) <= 30 + 2  # at most what was under way is asked for twice
    assert KEY not in done.stdout + done.stderr + journal.read_text()


def test_the_journal_belongs_to_its_settings(collect: Callable[..., Collected], tmp_path: Path) -> None:
    journal = tmp_path / "out.parquet.journal.jsonl"
    collect(1, options={"temperature": 0.7})
    with pytest.raises(DataError) as caught:
        collect(1, options={"temperature": 0.8})
    assert names(caught, journal, "temperature 0.7", "0.8", "--out", "remove the journal")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{oops", "is damaged"),
        (b'{"row": 0, "sample": 0}', "is damaged"),
        (b'{"row": 0, "sample": 0, "text": "t"}', "row 0, sample 0 is there twice"),
    ],
)
def test_a_damaged_journal_is_refused(
    collect: Callable[..., Collected], tmp_path: Path, line: bytes, problem: str
) -> None:
    collect(1)
    journal = tmp_path / "out.parquet.journal.jsonl"
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    with pytest.raises(DataError) as caught:
        collect(1)
    assert names(caught, f"{journal}, line 3", problem, "remove the line")


def test_a_journal_has_one_writer(collect: Callable[..., Collected], server: FakeEndpoint, tmp_path: Path) -> None:
    server.delay = 0.5
    thread = threading.Thread(target=collect, args=(1,))
    thread.start()
    while not server.bodies:
        time.sleep(0.005)
    with pytest.raises(DataError) as caught:
        collect(1)
    thread.join()
    journal = tmp_path / "out.parquet.journal.jsonl"
    assert names(caught, journal, f"in use by process {os.getpid()}", "--out")


@pytest.mark.parametrize(
    ("options", "more", "parts"),
    [
        ({}, {"n": 0}, ["--n is 0", "give 1 or more"]),
        ({"temperature": 0.0}, {"n": 2}, ["--n 2", "--temperature 0", "raise the temperature"]),
        ({}, {"prompt_key": "ask"}, ["{file}", "'ask'", "prompt, number", "set --prompt-key"]),
        ({}, {"teacher_key": "number"}, ["{file}", "'number'", "set --teacher-key"]),
        ({"timeout": 0}, {}, ["--timeout is 0", "positive"]),
        ({"retries": -1}, {}, ["--retries is -1", "0 or more"]),
        ({"requests_per_minute": 0}, {}, ["--requests-per-minute is 0", "positive"]),
        ({"temperature": -1.0}, {}, ["--temperature is -1.0", "0 or more"]),
        ({"max_tokens": 0}, {}, ["--max-tokens is 0", "1 or more"]),
        ({"api_key_env": "NO_SUCH_KEY"}, {}, ["NO_SUCH_KEY", "export it", "--api-key-env"]),
    ],
)
def test_arguments_that_cannot_be_used(
    collect: Callable[..., Collected],
    server: FakeEndpoint,
    tmp_path: Path,
    options: dict[str, Any],
    more: dict[str, Any],
    parts: list[str],
) -> None:
    with pytest.raises(DataError) as caught:
        collect(1, options=options, **more)
    assert names(caught, *(part.format(file=tmp_path / "rows.jsonl") for part in parts))
    assert server.bodies == []


def test_an_address_with_a_secret_is_refused_without_repeating_it() -> None:
    with pytest.raises(DataError) as caught:
        Endpoint(f"http://me:{KEY}@host/v1", "wise")
    assert names(caught, "--base-url", "put the key in the environment")
    assert KEY not in str(caught.value)
    with pytest.raises(DataError, match="--base-url 'host/v1' is no address: name one such as"):
        Endpoint("host/v1", "wise")


def test_a_row_without_a_prompt_stops_before_the_first_request(
    collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]
) -> None:
    path = write_rows({"prompt": "q"}, {"prompt": " "}, name="bad.jsonl")
    with pytest.raises(DataError) as caught:
        collect(prompts=path)
    assert names(caught, f"{path}, row 1 (counted from 0)", "prompt is empty", "remove the row")
    assert server.bodies == []


@pytest.mark.parametrize("package", ["openai", "tenacity"])
def test_without_a_package_the_error_says_what_to_install(
    package: str, collect: Callable[..., Collected], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError) as caught:
        collect(1)
    assert names(caught, f"needs the package {package}", install_command("teacher"))


def test_the_command_s_exit_code_says_that_rows_are_missing(
    server: FakeEndpoint,
    tmp_path: Path,
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.scripts["q1"] = [failed(422)]
    prompts, out = write_rows({"prompt": "q0"}, {"prompt": "q1"}), tmp_path / "new" / "out.parquet"
    command = ["data", "teacher", str(prompts), "--base-url", server.url, "--model", "wise", "--out", str(out)]
    assert main(command) == 1
    assert capsys.readouterr().out.startswith(f"{out}: 1 rows\n  row 1, response 0: HTTP 422: no\n")
    assert main([*command, "--set", "top_k=1"]) == 1
    assert "was collected with extra {}, and this is {'top_k': 1}" in capsys.readouterr().err
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: 2 rows\n"
    assert KEY not in "".join(path.read_text(errors="replace") for path in out.parent.iterdir())


def test_prompts_are_checked_before_the_first_request(
    collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]
) -> None:
    for change in ({"prompt": "b \ud83d"}, {"notes": ["b \ud83d"]}):
        with pytest.raises(DataError) as caught:
            collect(prompts=write_rows({"prompt": "a"}, {"prompt": "a", **change}))
        assert names(caught, "rows.jsonl, row 1", "\\ud83d")
    assert server.bodies == []


def test_messages_as_json_text_are_asked_as_messages_and_said_once(
    collect: Callable[..., Collected],
    server: FakeEndpoint,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    messages = [{"role": "user", "content": "q"}]
    collect(prompts=write_rows({"prompt": json.dumps(messages)}, {"prompt": "[1]"}), concurrency=1)
    assert [body["messages"] for body in server.bodies] == [messages, [{"role": "user", "content": "[1]"}]]
    assert capsys.readouterr().err.count("1 prompts are JSON text") == 1


def test_a_response_that_cannot_be_encoded_is_reported(collect: Callable[..., Collected], server: FakeEndpoint) -> None:
    server.scripts["q0"] = [said("half \ud83d")]
    collected = collect(2)
    assert texts_of(collected.path) == ["answer to q1"]
    ((row, _, why),) = collected.failures
    assert row == 0
    assert names(why, "the response", "\\ud83d")


def _function(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


@pytest.mark.parametrize("spelled", [False, True], ids=["a list", "JSON text"])
def test_a_rows_tools_are_offered_to_the_teacher(
    spelled: bool, collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]
) -> None:
    """Nulls that a column of structs fills in are left out."""
    weather, time_of = _function("weather"), _function("time")
    filled = {**time_of, "function": {**time_of["function"], "strict": None}}
    given = [[weather, filled], [weather], None]
    tools = [json.dumps(each) if spelled and each else each for each in given]
    collected = collect(prompts=write_rows(*({"prompt": f"q{row}", "tools": each} for row, each in enumerate(tools))))
    assert (collected.num_rows, collected.failures) == (3, ())
    offered = {body["messages"][-1]["content"]: body.get("tools", "none") for body in server.bodies}
    assert offered == {"q0": [weather, time_of], "q1": [weather], "q2": "none"}
    assert rows_of(collected.path)[2]["tools"] is None  # the column stays


def test_tools_under_another_name_or_left_out(
    collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]
) -> None:
    weather = _function("weather")
    path = write_rows({"prompt": "q0", "tools": [_function("no")], "abilities": [weather]})
    collect(prompts=path, tools_key="abilities")
    assert server.bodies[-1]["tools"] == [weather]
    (path.parent / "out.parquet.journal.jsonl").unlink()
    collect(prompts=path, tools_key=None)
    assert "tools" not in server.bodies[-1]
    with pytest.raises(DataError, match=r"has no column 'gone'; |has no column 'gone': set --tools-key"):
        collect(prompts=path, tools_key="gone")
    with pytest.raises(DataError) as caught:
        collect(prompts=write_rows({"prompt": "q0", "tools": "no JSON"}))
    assert names(caught.value, "row 0", "tools", "JSON")


def test_a_teacher_that_calls_a_tool_is_reported(
    collect: Callable[..., Collected], server: FakeEndpoint, write_rows: Callable[..., Path]
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    server.scripts["q0"] = [(200, {}, json.dumps(body).encode())]
    rows = [{"prompt": f"q{row}", "tools": [_function("weather")]} for row in range(2)]
    collected = collect(prompts=write_rows(*rows))
    ((row, _, problem),) = collected.failures
    assert row == 0
    assert names(problem, "calls a tool", "tools")


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_endpoint_that_does_not_answer_is_said_while_it_is_waited_for(
    collect: Callable[..., Collected], capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{closed_port()}/v1"
    collected = collect(3, options={"base_url": address, "retries": 2})
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot be reached" in line]
    assert len(said) == 1
    assert names(said[0], f"gspo: {address} cannot be reached", "Connection refused", "--retries", "Ctrl-C")
    assert len(collected.failures) == 3
    assert names(collected.failures[0][2], address, "Connection refused", "3 attempts")


def test_a_journal_without_a_response_takes_a_corrected_address(
    collect: Callable[..., Collected], server: FakeEndpoint, tmp_path: Path
) -> None:
    collect(2, options={"base_url": f"http://127.0.0.1:{closed_port()}/v1", "retries": 0})
    assert texts_of(collect(2).path) == ["answer to q0", "answer to q1"]
    first, *entries = journal_of(tmp_path)
    assert first["settings"]["base_url"] == server.url
    assert sorted(entry["row"] for entry in entries) == [0, 1]


def test_stopping_does_not_wait_for_the_next_attempt(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.scripts["q0"] = [failed(429, retry_after="50")]
    said: list[str] = []
    client = teacher_client.EndpointClient(Endpoint(server.url, "m"), said.append)
    ended: list[float] = []

    def ask() -> None:
        with pytest.raises(teacher_client.Stopped):
            client.ask([{"role": "user", "content": "q0"}])
        ended.append(time.monotonic())

    thread = threading.Thread(target=ask)
    thread.start()
    while not said:  # told when it begins to wait
        time.sleep(0.005)
    asked = time.monotonic()
    client.stop()
    thread.join(10)
    client.close()
    assert ended[0] - asked < 1
    assert server.questions() == {"q0": 1}


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:8000/v1", ["'localhost:8000/v1'", "http://localhost:8000/v1"]),
        ("api.example.org", ["http://api.example.org"]),
        ("http:/localhost:8000/v1", ["'http:/localhost:8000/v1'", "such as http://"]),
        ("http://localhost:99999/v1", ["99999", "0-65535"]),
        ("http://localhost:eight/v1", ["eight"]),
        ("http://localhost:0/v1", ["port 0"]),
        ("http://localhost:8000/v1/chat/completions", ["take /chat/completions off", "http://localhost:8000/v1"]),
        ("http://localhost:8000/v1/models/", ["take /models off", "http://localhost:8000/v1"]),
    ],
)
def test_an_address_is_corrected_before_anything_is_asked(address: str, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        Endpoint(address, "m")
    assert names(caught, "--base-url", *parts)


def test_a_server_s_address_without_its_path_is_told_of(
    collect: Callable[..., Collected], server: FakeEndpoint
) -> None:
    server.scripts["q0"] = [failed(404)]
    bare = server.url.removesuffix("/v1")
    with pytest.raises(DataError) as caught:
        collect(1, options={"base_url": bare})
    assert names(caught, f"{bare} answers HTTP 404", f"want {bare}/v1")


@pytest.mark.parametrize("key", ["“sk-1234567”", "sk-12 34567", "sk-123\n4567"])
def test_a_key_that_no_header_can_hold_is_told_without_it(
    key: str, server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(DataError) as caught:
        teacher_client.EndpointClient(Endpoint(server.url, "m"))
    assert names(caught, "OPENAI_API_KEY", "straight quotes")
    assert "1234567" not in str(caught.value)
