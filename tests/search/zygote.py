"""A process that has imported everything and forks a copy of itself for each command, so that tests can start
and kill commands in a fraction of a second.

Reads a request as JSON a line and prints the process id of the command; its exit status goes to a file.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from tinysweep.commands import train
from tinysweep.search import plan  # noqa: F401 imported here so that no copy has to
from tinysweep.search import sweep as sweeper  # noqa: F401 imported here so that no copy has to


def serve() -> None:
    torch.set_num_threads(1)  # a second thread of this process would not live on in its copies
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
        print(child, flush=True)


def become(request: dict[str, object]) -> None:
    """Be the command that is asked for, until its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(request["place"]))
    output = os.open(str(request["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if limit := request.get("largest_file"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(limit)), resource.RLIM_INFINITY))
    sys.argv = ["tinysweep", *map(str, request["words"])]  # type: ignore[call-overload]
    status = 0
    try:
        train.main()
    except SystemExit as ending:
        status = int(ending.code or 0)
    finally:
        sys.stdout.flush()
        Path(str(request["output"]) + ".status").write_text(str(status))
        os._exit(status)


if __name__ == "__main__":
    serve()
