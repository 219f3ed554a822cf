"""What processes use, by the kernel's own account (/proc): CPU time, memory, and what of the machine others had."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int, *, descendants: bool = True) -> float:
    """User and system time of a process, and of its descendants, in seconds; 0 for pid 0 and one that is gone."""
    if not pid:
        return 0.0
    total = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total = (int(fields[11]) + int(fields[12])) / TICKS
        if descendants:
            total += sum(cpu_s(child) for child in children(pid))
    return total


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_bytes(pid: int) -> int:
    """Memory of one process that is in RAM (VmRSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@dataclass(frozen=True)
class Machine:
    """The machine's clock ticks up to a moment: all of them, and those that the hypervisor gave to somebody else."""

    total: int
    stolen: int

    def stolen_since(self, before: "Machine") -> float:
        """Share of the time between two moments, 0 to 1, in which our processors were not ours."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)


def machine() -> Machine:
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return Machine(user + nice + system + idle + iowait + irq + softirq + steal, steal)
