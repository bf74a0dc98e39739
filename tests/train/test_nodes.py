"""A run over two nodes: two agents of torchrun, as two machines have, with one process each, on CPUs."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.record import RunRecord

ROOT = Path(__file__).parents[2]
SMALL = ["data=text", "data.source.files=[a.txt]", "data/tokenizer=bytes", "model.width=16", "model.depth=1"]
SMALL += [
    "model.heads=2",
    "model.context=16",
    "budget.tokens=640",
    "budget.batch_tokens=64",
    "sample.tokens=0",
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def the_record(place: Path) -> RunRecord:
    (file,) = place.glob("runs/*/record.json")
    return RunRecord.load(file.parent)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_nodes_give_the_run_of_one_process(strategy, tmp_path):
    places = [tmp_path / name for name in ("alone", "two")]
    for place in places:
        place.mkdir()
        (place / "a.txt").write_text("\n\n".join(f"Document {n}: {'so it goes ' * 9}" for n in range(200)))
    alone = [sys.executable, str(ROOT / "train.py"), *SMALL, "trainer=cpu"]
    subprocess.run(alone, cwd=places[0], check=True, capture_output=True, timeout=300)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    words = [f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.nodes=2", "trainer.devices=1"]
    agents = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={rank}", str(ROOT / "train.py"), *SMALL, *words],
            cwd=places[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [agent.communicate(timeout=500)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    one, two = map(the_record, places)
    assert one.id == two.id and two.provenance["devices"] == 2
    assert two.metrics == pytest.approx(one.metrics, rel=1e-5)
