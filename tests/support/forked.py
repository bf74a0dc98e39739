"""Commands in processes of their own, without the cost of an import each: a server that forks.

`Server.run(argv, folder)` runs `ablate ARGV` in a child of one warm process, under a limit of time and of
memory, and tells how it ended.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 6 << 30  # bytes of data that a command may ask for


class Ended(NamedTuple):
    """How a command ended. `code` is negative for a signal, None where it was still running at the limit."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak: int  # resident bytes


class Server:
    """A process that has imported everything and forks for each command."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
        env.pop("HYDRA_FULL_ERROR", None)
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(self, argv: list[str], folder: Path, seconds: float = 30) -> Ended:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([argv, str(folder), seconds]), file=self.process.stdin, flush=True)
        return Ended(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    import torch

    import ablate.cli.entry
    import ablate.cli.exchange
    import ablate.cli.sweep
    import ablate.cli.train
    import ablate.measure.score
    import ablate.measure.trained
    import ablate.study.report.render  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        argv, folder, seconds = json.loads(line)
        print(json.dumps(ended(argv, folder, seconds)), flush=True)


def ended(argv: list[str], folder: str, seconds: float) -> Any:
    pipes = [os.pipe(), os.pipe()]
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for number, (_, end) in enumerate(pipes, 1):
            os.dup2(end, number)
        for pair in pipes:
            for end in pair:
                os.close(end)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        code = 70
        try:
            from ablate.__main__ import main

            code = main(argv)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for _, end in pipes:
        os.close(end)
    said: dict[int, bytes] = {here: b"" for here, _ in pipes}
    open_ = set(said)
    late = False
    while open_:
        left = began + seconds - time.monotonic()
        ready = select.select(list(open_), [], [], max(left, 0))[0]
        if not ready:
            late = True
            os.killpg(child, signal.SIGKILL)
            break
        for end in ready:
            piece = os.read(end, 1 << 16)
            if not piece:
                open_.discard(end)
            elif len(said[end]) < 1 << 22:
                said[end] += piece
    for end, _ in pipes:
        os.close(end)
    _, status, used = os.wait4(child, 0)
    out, err = (said[here].decode(errors="replace") for here, _ in pipes)
    code = None if late else os.waitstatus_to_exitcode(status)
    return code, out, err, time.monotonic() - began, used.ru_maxrss * 1024


if __name__ == "__main__":
    serve()
