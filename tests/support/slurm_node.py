"""SLURM on this machine alone: a controller and one node, processes of this user in a folder of their own.

On Debian: apt-get install --no-install-recommends slurm-client slurmctld slurmd. Nothing is configured
outside the folder, no service is touched, and there is no accounting, as on many small clusters.

    python tests/support/slurm_node.py FOLDER    # until Ctrl-C; it prints what to export
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "slurmctld", "slurmd")
MISSING = [name for name in COMMANDS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]

# cred_expire: a job that queues itself again waits so long, two minutes otherwise.
CONFIG = """
ClusterName=ablate
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=2
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=1,sched_min_interval=0
ReturnToService=2
MpiDefault=none
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm_node(folder: Path, cpus: int = 2, gpus: int = 2) -> Iterator[dict[str, str]]:
    """What to add to the environment so that SLURM's commands speak to the node. `gpus` are files that stand
    for devices. Raises RuntimeError where the node does not come up within half a minute."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            host=host, user=getpass.getuser(), ports=free_ports(2), folder=folder, cpus=cpus, gpus=gpus
        )
    )
    devices = f"File=/dev/tty[0-{gpus - 1}]" if gpus > 1 else "File=/dev/tty0"
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu {devices}\n" if gpus else "")
    added = {"SLURM_CONF": str(config)}
    path = f"{os.environ['PATH']}:/usr/sbin"
    started = []
    try:
        for daemon in (["slurmctld", "-c"], ["slurmd"]):
            with (folder / f"{daemon[0]}.log").open("w") as log:
                words = [str(shutil.which(daemon[0], path=path)), "-D", *daemon[1:], "-f", str(config)]
                started.append(subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True))
        wait_until_idle(added, folder)
        yield added
    finally:
        environment = {**os.environ, **added}
        if started and started[0].poll() is None:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, timeout=30)
            time.sleep(1)
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_idle(added: dict[str, str], folder: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        asked = ["sinfo", "--noheader", "--format=%T"]
        found = subprocess.run(asked, env={**os.environ, **added}, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join((folder / f"{name}.log").read_text()[-1000:] for name in ("slurmctld", "slurmd"))
    raise RuntimeError(f"the node of SLURM did not come up:\n{logs}")


def free_ports(number: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    with slurm_node(Path(sys.argv[1]).absolute()) as environment:
        print(*(f"export {name}={value}" for name, value in environment.items()), sep="\n", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
