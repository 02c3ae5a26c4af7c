"""The report of a benchmark: rows of measures, some with a bar."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table


class Bar(NamedTuple):
    """The bar that a measure has to reach."""

    op: Literal["<=", ">=", ">", "=="]
    value: float

    def holds(self, measured: float) -> bool:
        """Return whether `measured` reaches it."""
        match self.op:
            case "<=":
                return measured <= self.value
            case ">=":
                return measured >= self.value
            case ">":
                return measured > self.value
            case "==":
                return measured == self.value


@dataclass(frozen=True, slots=True)
class Row:
    """One measure."""

    measure: str
    value: float
    unit: str
    bar: Bar | None = None
    peers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one benchmark."""

    bench: str
    rows: list[Row]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the rows for programs."""
        return {
            "bench": self.bench,
            "machine": machine(),
            "notes": list(self.notes),
            "rows": [
                {
                    "measure": row.measure,
                    "value": row.value,
                    "unit": row.unit,
                    "bar": None if row.bar is None else row.bar._asdict(),
                    "holds": None if row.bar is None else row.bar.holds(row.value),
                    "peers": dict(row.peers),
                    "command": f"lifeline bench {self.bench} --json",
                }
                for row in self.rows
            ],
        }

    def table(self) -> Table:
        """Return the rows for people."""
        table = Table(title=f"lifeline bench {self.bench}", caption="\n".join(self.notes), caption_justify="left")
        has_peers = any(row.peers for row in self.rows)
        for name in ("measure", "value", "unit", "bar", "holds", *(("peers",) if has_peers else ())):
            table.add_column(name, justify="right" if name == "value" else "left", overflow="fold")
        for row in self.rows:
            bar = "" if row.bar is None else f"{row.bar.op} {row.bar.value:g}"
            holds = "" if row.bar is None else ("yes" if row.bar.holds(row.value) else "NO")
            peers = "\n".join(f"{name} {_number(value)}" for name, value in row.peers.items())
            table.add_row(row.measure, _number(row.value), row.unit, bar, holds, *((peers,) if has_peers else ()))
        return table


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1_000 else f"{value:,.0f}"


def machine() -> dict[str, object]:
    """Return a description of the machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
