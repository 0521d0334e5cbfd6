"""Several drivers on one output: one holds the lease; one that lost it while suspended does no harm and fails."""

import json
import signal
import socket
from pathlib import Path

import pytest
from support import victims
from support.crowd import listed
from support.drivers import Run
from support.tiny import untrained

from metric_core.artefacts import manifest
from metric_core.artefacts.embeddings import Embeddings
from workflows.shared import lease

IMAGES = 2000
TOOK_OVER = "this run was silent for too long, and another one took over"


def fall_silent(run: Run) -> None:
    """Suspend the driver, not its actors, and make its lease look like one of another host that has missed its beats.

    On the same host a suspended process does not count as dead.
    """
    run.driver.send_signal(signal.SIGSTOP)
    path = Path(run.out, lease.NAME)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "beat": 0.0}))


@pytest.mark.slow
@pytest.mark.long
def test_one_driver_at_a_time(tmp_path: Path) -> None:
    faces, model, out = listed(tmp_path, IMAGES), untrained(str(tmp_path / "model")), str(tmp_path / "out")
    with victims.nodes() as nodes:
        where = ("--address", nodes.address, "--actors", "1")
        calm = Run(tmp_path / "calm", faces, model, *where)
        first, second, third = (Run(tmp_path / n, faces, model, *where, out=out) for n in ("1", "2", "3"))
        calm.start()
        first.open_gate(3)
        first.start()
        first.reach(3)

        second.start()
        refused = second.end(1)
        assert f"{out} is being written by process {first.driver.pid} on {socket.gethostname()}; wait for it" in refused

        fall_silent(first)
        second.open_gate(7)
        second.start()
        second.reach(7)
        fall_silent(second)
        third.open_gate(11)
        third.start()
        third.reach(11)

        # It continues while another one works: it may embed, but it must not finish.
        first.open_gate()
        first.driver.send_signal(signal.SIGCONT)
        assert TOOK_OVER in first.end(1)
        assert not Path(out, manifest.NAME).exists()
        third.open_gate()
        third.end()
        finished, committed = Path(out, manifest.NAME).read_bytes(), third.committed()

        # It continues when everything is finished.
        second.open_gate()
        second.driver.send_signal(signal.SIGCONT)
        assert TOOK_OVER in second.end(1)
        calm.end()
    assert Path(out, manifest.NAME).read_bytes() == finished
    assert third.committed() == committed
    assert not Path(out, lease.NAME).exists()
    assert manifest.read(out, "embeddings").digest == manifest.read(calm.out, "embeddings").digest
    ids = Embeddings.open(out).load().face_id_N
    assert len(ids) == len(set(ids.tolist())) == Embeddings.open(out).rows
