"""The same runs on a Ray cluster, through Ray's core: tasks with shares of GPUs, on whatever nodes there are.

Ray starts processes and knows which nodes live; who does a run, and what came out, is the store's. Ray is an
optional extra (`pip install -e '.[ray]'`) and is imported when asked for.
"""

import os
import sys
from dataclasses import asdict
from typing import Any

from ablate.engine.launch import EngineError
from ablate.engine.process import THREADS
from ablate.engine.remote import TaskEnd
from ablate.engine.shift import Shift, do_all
from ablate.engine.store import Store
from ablate.engine.worker import Job, WorkerReport

QUEUED = 2  # tasks submitted for each that has room to run, so that no node waits for the next look


class RayPool:
    """Ray tasks of one run each.

    `address` is that of a running cluster (`auto`: the one that this machine belongs to); None starts a local
    one. A run takes `gpus` GPUs of a node, or a share of one below 1, or `cpus` cores where it takes no GPU;
    `most` of them run at a time (None: as many as fit).
    Raises ImportError, with the fix, where Ray is missing, and EngineError where the cluster does not answer.
    """

    def __init__(
        self,
        store: Store,
        work: str,
        *,
        after: str | None = None,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        most: int | None = None,
    ):
        try:
            import ray
        except ImportError as error:
            raise ImportError("engine=ray needs Ray: pip install -e '.[ray]' (in the repository)") from error
        self.ray, self.together = ray, 1
        self.root, self.work, self.after = str(store.root.absolute()), work, after
        self.most = most
        self.share = {"CPU": cpus, "GPU": gpus}
        if not ray.is_initialized():
            try:
                ray.init(
                    address=address, log_to_driver=False, configure_logging=False, include_dashboard=None
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise EngineError(f"Ray at {address or 'this machine'}: {error}") from error
        threads = {f"{name}_NUM_THREADS": str(max(1, int(cpus))) for name in THREADS}
        self.remote = ray.remote(do_one).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,  # whether a run is done again is decided here
            runtime_env={"env_vars": {**threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _path()}},
        )

    def capacity(self) -> int:
        """How many runs the nodes that live have room for."""
        resources = self.ray.cluster_resources()
        return int(min(resources.get(name, 0) / share for name, share in self.share.items() if share))

    def room(self, running: int) -> int:
        """Some more than run: an autoscaler reads the demand from tasks that wait."""
        return (self.most or QUEUED * max(1, self.capacity())) - running

    def submit(self, groups: list[list[Job]]) -> list[Any]:
        place = (self.root, self.work, self.after, sys.path, os.getcwd())
        return [self.remote.remote([asdict(job) for job in group], *place) for group in groups]

    def ended(self, task: Any) -> TaskEnd | None:
        errors = self.ray.exceptions
        ready, _ = self.ray.wait([task], timeout=0)
        if not ready:
            return None
        try:
            return TaskEnd(tuple(WorkerReport(**report) for report in self.ray.get(task)))
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError) as error:
            return TaskEnd(reason=f"Ray: the node was lost: {_first_line(error)}", machine_lost=True)
        except errors.TaskCancelledError:
            return TaskEnd(reason="stopped")
        except errors.RayError as error:
            return TaskEnd(reason=f"Ray: {_first_line(error)}")

    def place(self, task: Any) -> str:
        return f"task {task.hex()[:8]}"

    def cancel(self, task: Any) -> None:
        self.ray.cancel(task, force=False)


def do_one(
    jobs: list[dict[str, Any]], root: str, work: str, after: str | None, path: list[str], place: str
) -> list[dict[str, Any]]:
    """What a Ray task does, in a worker that Ray keeps warm for the next: reports as plain JSON."""
    shift = Shift(root, work, after, path, place)
    with shift.heeding():
        return [asdict(report) for report in do_all(jobs, shift)]


def _path() -> str:
    return os.pathsep.join(os.path.abspath(place or ".") for place in sys.path)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
