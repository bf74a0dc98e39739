"""What one started process of a run on several devices does."""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

GRACE = 60.0  # seconds that a rank has to stop, once nobody waits for it


def stop_with_starter() -> None:
    """End this process when the one that started it is gone."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def rank() -> int:
    """What a started process does; its exit status is not 0 where the other ranks would wait in vain."""
    faulthandler.enable(file=2)
    for number in (signal.SIGINT, signal.SIGHUP):  # the starter hears them, and says so by SIGTERM
        signal.signal(number, signal.SIG_IGN)
    message = json.loads(os.fdopen(0, "rb", buffering=0, closefd=False).readline())
    sys.path[:] = message["path"]
    threading.Thread(target=stop_with_starter, daemon=True).start()
    import torch.distributed as dist

    from ablate.train.fit import perform_request
    from ablate.train.request import RunRequest

    try:
        record = perform_request(RunRequest.read(message["request"]))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0 if record.status in ("finished", "diverged", "interrupted") else 1


def exit_now(status: int) -> NoReturn:
    """End this process, whose work is written, without the libraries' own ending: FSDP's groups outlive
    `destroy_process_group`, and static destructors would free what their threads still use."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        status = rank()
    except BaseException:
        traceback.print_exc()
        status = 1
    exit_now(status)
