"""The largest resident memory of a process."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_memory_mib() -> int:
    """Return the largest resident memory of this process so far, in MiB.

    `ru_maxrss` begins with the peak of the process that started this one, so what Linux keeps for a program's own
    memory is read where it is there.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.is_file() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) // 1024
