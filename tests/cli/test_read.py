"""`lifeline get` of one user and of several."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.reasons import Reason
from lifeline.rpc.server import NodeServer, Services
from lifeline.rpc.settings import NodeSettings
from lifeline.rpc.status import Refusal, abort
from lifeline.v1 import sequence_pb2, sequence_pb2_grpc
from tests.support.grpc_services import Scores
from tests.support.operators import Models, Operators

USERS = ("ann", "[/x]", "[red]bob", ":key:", "a\x1b[31m\nb", "-eve")


class People(sequence_pb2_grpc.SequenceServiceServicer):
    """Knows the users of `USERS`, with two events each; "away" is on another node, "slow" waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def GetSequence(  # noqa: N802
        self, request: sequence_pb2.GetSequenceRequest, context: grpc.ServicerContext
    ) -> sequence_pb2.GetSequenceResponse:
        if request.user_id == "away":
            abort(context, Refusal(grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER, "it is elsewhere: ask there"))
        if request.user_id == "slow":
            assert self.go.wait(60)
        length = 2 * (request.user_id in USERS)
        columns = {
            "timestamp_ms": np.arange(length, dtype="<i8").tobytes(),
            "item_id": np.arange(length, dtype="<u8").tobytes(),
            "action_type": np.ones(length, "u1").tobytes(),
            "surface": np.ones(length, "u1").tobytes(),
        }
        if sequence_pb2.COLUMN_EMBEDDING in request.columns:
            columns["embedding"] = bytes(length * 32)
        parts = [
            sequence_pb2.Sequence(kind=kind, length=length, stored=2 * length, **columns) for kind in request.kinds
        ]
        return sequence_pb2.GetSequenceResponse(sequences=parts)


class Running(NamedTuple):
    address: str
    people: People

    def get(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["get", "--address", self.address, *arguments])


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    people = People()
    services = Services(people, Scores(), Operators(), Models())
    server = NodeServer(NodeSettings(grpc_address="127.0.0.1:0"), services)
    yield Running(server.address, people)
    people.go.set()
    server.stop(5)


def test_each_user_is_a_line(node: Running) -> None:
    done = node.get("--jsonl", "--embeddings", "--", *USERS, "nobody")
    assert done.exit_code == 0, done.output
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["user"] for line in lines] == [*USERS, "nobody"]
    assert [line["stored"] for line in lines] == [4] * len(USERS) + [0]
    assert lines[0]["item_id"] == [0, 1]
    assert lines[0]["embedding"] == [[0] * 32] * 2
    assert all(line.isprintable() for line in done.stdout.splitlines())
    (one,) = node.get("ann", "--jsonl").stdout.splitlines()
    assert json.loads(one) == json.loads(node.get("ann", "--json").stdout)


def test_a_user_who_cannot_be_read_hides_no_other(node: Running) -> None:
    done = node.get("ann", "away", "nobody", "--jsonl")
    assert done.exit_code == 1
    first, failed, last = map(json.loads, done.stdout.splitlines())
    assert (first["user"], first["stored"], last["user"]) == ("ann", 4, "nobody")
    assert failed == {
        "user": "away",
        "kind": "explicit",
        "error": "it is elsewhere: ask there",
        "code": "UNAVAILABLE",
        "reason": "NOT_OWNER",
    }
    assert "error: user 'away': UNAVAILABLE (NOT_OWNER): it is elsewhere" in done.stderr
    listed = node.get("ann", "away", "nobody", "--json")
    assert listed.exit_code == 1
    assert json.loads(listed.stdout) == [first, failed, last]
    shown = node.get("ann", "away", "nobody")
    assert shown.exit_code == 1
    assert "ann: newest 2 of 4" in shown.stdout
    assert "no such user" in shown.stdout
    assert "user 'away'" in shown.stderr
    # Alone too: whoever asks for lines gets one.
    (only,) = node.get("away", "--jsonl").stdout.splitlines()
    assert json.loads(only) == failed


def test_a_line_is_printed_as_soon_as_it_is_there(node: Running) -> None:
    command = [sys.executable, "-m", "lifeline", "get", "ann", "slow", "--jsonl", "--timeout", "60"]
    node.people.go.clear()
    with subprocess.Popen([*command, "--address", node.address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["user"] == "ann"
        assert process.poll() is None
        node.people.go.set()
        assert json.loads(process.stdout.readline())["user"] == "slow"
        assert process.wait(60) == 0


@pytest.mark.parametrize("user", USERS)
def test_a_user_is_shown_as_it_is(node: Running, user: str) -> None:
    escaped = user.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert node.get("--", user).stdout.startswith(f"{escaped}: newest 2 of 4 explicit events")


@pytest.mark.parametrize("form", ["--json", "--jsonl", None])
def test_what_the_terminal_cannot_encode_is_escaped(node: Running, form: str | None) -> None:
    command = [sys.executable, "-m", "lifeline", "get", "漢é", "--address", node.address]
    done = subprocess.run(
        [*command, *([form] if form else [])],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode("latin-1")
    if form:
        assert json.loads(text)["user"] == "漢é"
    else:
        assert text.startswith(r"\u6f22é: newest 0 of 0")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("ann", "--json", "--jsonl"), "give one of --json and --jsonl"),
        (("ann", "bob", "--min-offset", "3"), "name one user"),
        (("ann", ""), "it has 0 bytes"),
        (("ann", "b" * 257, "--jsonl"), "it has 257 bytes"),
    ],
)
def test_wrong_use_exits_with_2_before_anybody_is_read(node: Running, arguments: tuple[str, ...], why: str) -> None:
    done = node.get(*arguments)
    assert done.exit_code == 2
    assert why in done.output
    assert done.stdout == ""
