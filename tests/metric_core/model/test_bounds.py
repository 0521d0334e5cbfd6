"""A ``model.json`` that describes a network that nobody can hold is refused before any memory is taken."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny import untrained

from metric_core.errors import Corrupt
from metric_core.model import bundle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 1_000_000}, "dim is 1000000; it must be from 8 to 4096"),
        ({"widths": [10**9, 8]}, "widths is .* each must be from 1 to 8192"),
        ({"depths": [10**9, 1]}, "depths is .* each must be from 1 to 256"),
        ({"widths": [8] * 1000, "depths": [1] * 1000}, "must be of equal length, 1 to 10"),
        ({"widths": [8192, 8192], "depths": [256, 256]}, "its network has [0-9]+ bytes of weights, and weights"),
    ],
)
def test_a_network_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    uri = Path(untrained(str(tmp_path / "model")))
    body = json.loads((uri / "model.json").read_text())
    body["backbone"] |= change
    (uri / "model.json").write_text(json.dumps(body))
    with pytest.raises(Corrupt, match=message):
        bundle.load(str(uri))


def test_a_document_without_end(tmp_path: Path) -> None:
    uri = Path(untrained(str(tmp_path / "model")))
    with open(uri / "model.json", "wb") as f:
        f.truncate(6 << 30)
    with pytest.raises(Corrupt, match="has 6442450944 bytes; at most 1048576 were expected"):
        bundle.load(str(uri))
    (uri / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(Corrupt, match="is not a manifest"):
        bundle.load(str(uri))


def test_a_text_that_no_digest_can_be_of(tmp_path: Path) -> None:
    uri = Path(untrained(str(tmp_path / "model")))
    body = json.loads((uri / "model.json").read_text())
    (uri / "model.json").write_text(json.dumps({**body, "decoder": "\ud800"}))
    with pytest.raises(Corrupt, match="does not describe these weights"):
        bundle.load(str(uri))
