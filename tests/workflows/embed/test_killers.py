"""A picture that ends the process that decodes it costs an attempt, not the job and not its neighbours."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny import Chain

from metric_core.artefacts import manifest
from workflows.embed import job as embed
from workflows.embed import launcher
from workflows.embed.config import EmbedConfig
from workflows.embed.worker import EmbedWorker


@pytest.mark.slow
def test_a_picture_that_ends_its_process_is_decoded_apart(
    chain: Chain, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EmbedConfig(faces=chain.faces, model=chain.model, out=str(tmp_path / "calm"), unit_size=40, actors=1)
    calm = embed.run(config)
    killer, log = (people / "person-0003" / "02.jpg").read_bytes(), tmp_path / "log"

    class Fragile(EmbedWorker):  # inside the test, so that it travels as code
        def work(self, unit: Any, decoded: Any) -> Any:
            from metric_core.sampling import loader

            honest = loader.preprocess

            def fragile(data: bytes, *rest: Any, careful: bool = False) -> Any:
                if data == killer and not careful:
                    log.open("a").write("x")
                    os._exit(1)
                return honest(data, *rest, careful=careful)

            loader.preprocess = fragile
            try:
                return super().work(unit, decoded)
            finally:
                loader.preprocess = honest

    monkeypatch.setattr(launcher, "EmbedWorker", Fragile)
    answer = embed.run(replace(config, out=str(tmp_path / "out")))
    assert log.read_text() == "x", "the second attempt is careful"
    assert (answer["embedded"], answer["quarantined"]) == (calm["embedded"], 0)
    ours, theirs = (manifest.read(str(tmp_path / name), "embeddings").digest for name in ("out", "calm"))
    assert ours == theirs
