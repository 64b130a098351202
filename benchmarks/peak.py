"""How much memory a process has needed; as a script, `tinysweep-compare` and then that.

python benchmarks/peak.py trials.csv
"""

import math
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mib() -> float:
    """MiB that this process has held at most, or nan where the system doesn't tell it so.

    What `resource.getrusage` tells of a child is at least what its parent held when it started the child.
    """
    return float(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024 if STATUS.is_file() else math.nan


def main() -> None:
    from tinysweep.commands.compare import main as compare  # noqa: PLC0415 - so that others who import this need no more

    compare()
    print(peak_mib())


if __name__ == "__main__":
    main()
