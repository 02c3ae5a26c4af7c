"""Scoring: kernels, whole requests in process and over gRPC, reads, and overload, beside other libraries.

One user of 16,384 explicit events and 128 impressions, 256 candidates, TransActV2 with random weights, all cores. The
parts over gRPC have a node in a process of its own, and share the machine with it. On a processor without AVX-512 the
bars do not apply; the notes say which kernels ran.
"""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.report import Report, Row
from benchmarks.score import grpc, kernels, requests
from benchmarks.score.peers import measure
from benchmarks.score.world import open_world
from lifeline.cli.console import err
from lifeline.scorer.kernels.instruction_set import best

_IN_PROCESS = {"selection": kernels.selection, "encoder": kernels.encoder, "request": requests.request}
_OVER_GRPC = {"grpc": grpc.grpc, "reads": grpc.reads, "overload": grpc.overload}
PARTS = (*_IN_PROCESS, *_OVER_GRPC)


def run(bootstrap_servers: str | None, parts: Sequence[str] = ()) -> Report:
    """Run all parts, or those that are named: about six minutes, of which four are the peers' and the overload."""
    selected = parts or PARTS
    notes = [f"kernels: {best().label}, {os.cpu_count()} threads"]
    rows: list[Row] = []
    peers: dict[str, float] = {}
    if {"selection", "encoder"} & set(selected):
        _say("peers")
        peers = measure(notes)
    with ExitStack() as stack:
        if set(selected) & set(_IN_PROCESS):
            world = stack.enter_context(open_world())
            tokens, impressions = len(world.history.explicit), len(world.history.impressions)
            notes.append(f"{tokens:,} explicit tokens, {impressions} impressions")
            for name, measure_part in _IN_PROCESS.items():
                if name in selected:
                    _say(name)
                    rows += measure_part(world, peers, notes)
    with ExitStack() as stack:
        if set(selected) & set(_OVER_GRPC):
            node = stack.enter_context(grpc.start_node(bootstrap_servers, notes))
            for name, measure_over_grpc in _OVER_GRPC.items():
                if name in selected:
                    _say(name)
                    rows += measure_over_grpc(node, notes)
    return Report("score", rows, tuple(notes))


def _say(name: str) -> None:
    err.print(f"{time.strftime('%H:%M:%S')} {name}", highlight=False)
