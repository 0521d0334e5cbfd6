"""The names in the results of jobs, which scripts read with ``--json``: like options, they change only on purpose."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny import Chain

from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.embeddings import check, compare, export, stats
from workflows.embeddings.config import CheckConfig, CompareConfig, ExportConfig, StatsConfig
from workflows.evaluate import job as evaluate
from workflows.evaluate.config import EvaluateConfig
from workflows.index import check as index_check
from workflows.index import job as index
from workflows.index.config import CheckConfig as IndexCheckConfig
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig
from workflows.verify import job as verify
from workflows.verify.config import VerifyConfig

VERIFICATION = "accuracy accuracy_se auc eer tar_at_far.1e-1 tar_at_far.1e-2 tar_at_far.1e-3 pairs pairs_skipped"


def names(answer: dict[str, Any], depth: int = 2) -> Iterator[str]:
    """The names in a result, nested ones as ``outer.inner``; of a list those in its first entry."""
    for name, value in answer.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and inner and depth > 1:
            yield from (f"{name}.{below}" for below in names(inner, depth - 1))
        else:
            yield name


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("catalogue", "faces rows identities splits.train splits.valid"),
        (
            "train",
            "model fingerprint steps images_per_second validation.accuracy validation.auc validation.eer "
            "validation.tar_at_far_1e-1 mlflow_run",
        ),
        ("embed", "embeddings embedded quarantined reused seconds startup_seconds images_per_second"),
        (
            "index",
            "index version rows people shards bytes spec nprobe depth identity_recall recall memory seconds",
        ),
    ],
)
def test_of_jobs_that_write_artefacts(chain: Chain, job: str, expected: str) -> None:
    assert sorted(names(chain.answers[job])) == sorted(expected.split())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"dry_run": True, "price_per_hour": 3.0},
            "units images actors decoders bytes seconds images_per_second slowest cost",
        ),
        (
            {"since": True},
            "embeddings embedded quarantined unchanged gone reused seconds startup_seconds images_per_second",
        ),
    ],
)
def test_of_embed_otherwise(chain: Chain, tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    how = more | ({"since": chain.embeddings} if "since" in more else {})
    answer = embed.run(EmbedConfig(faces=chain.faces, model=chain.model, out=str(tmp_path / "e"), **how))
    assert sorted(names(answer)) == sorted(expected.split())


def test_of_index_otherwise(chain: Chain, tmp_path: Path) -> None:
    dry = index.run(IndexConfig(embeddings=chain.embeddings, out=str(tmp_path / "i"), dry_run=True))
    expected = "spec rows shards bytes memory task_memory sample_rows identity_recall cpu_seconds seconds"
    assert sorted(names(dry)) == sorted(expected.split())
    checked = index_check.run(IndexCheckConfig(index=chain.index))
    expected = "index version format rows people shards files looked_up identity_recall"
    assert sorted(names(checked)) == sorted(expected.split())


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("verification", VERIFICATION),
        ("identification", "rank1 rank5 probes gallery cmc"),
        ("retrieval", "precision_at_1 r_precision map_at_r queries queries_skipped"),
        (
            "clustering",
            "nmi bcubed.precision bcubed.recall bcubed.f pairwise.precision pairwise.recall pairwise.f clusters people "
            "pictures threshold",
        ),
        ("classification", "accuracy neighbours queries queries_skipped"),
    ],
)
def test_of_evaluate(chain: Chain, protocol: str, expected: str) -> None:
    answer = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, **{protocol: True}))
    assert sorted(names(answer)) == sorted(expected.split())


def test_of_search_and_verify(chain: Chain, people: Path, tmp_path: Path) -> None:
    picture, broken = str(people / "person-0001" / "00.jpg"), tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    found = search.run(SearchConfig(index=chain.index, model=chain.model, image=[picture, str(broken)]))
    assert sorted(names(found)) == [
        *(f"matches.{name}" for name in ("accepted", "face_id", "identity", "query", "rank", "score")),
        *(f"unreadable.{name}" for name in ("query", "reason")),
    ]
    compared = verify.run(VerifyConfig(model=chain.model, images=[picture, picture], far=0.1))
    assert sorted(names(compared)) == ["far", "same", "similarity", "threshold"]


CHECKED = ["rows", "parts", "inputs", "embedded", "quarantined", "erased"]
COVERED = ["faces", "embedded", "quarantined", "erased", "missing", "surplus"]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda e, faces, at: check.run(CheckConfig(embeddings=e)), CHECKED),
        (
            lambda e, faces, at: check.run(CheckConfig(embeddings=e, faces=faces)),
            [*CHECKED, *(f"coverage.{name}" for name in COVERED)],
        ),
        (
            lambda e, faces, at: stats.run(StatsConfig(embeddings=e)),
            [
                *("rows", "people", "dim", "dtype", "model", "namespace", "parts", "bytes", "bytes_per_face"),
                *(f"norm.{share}" for share in stats.QUANTILES),
                *(f"pictures_per_person.{share}" for share in stats.QUANTILES),
                "quarantined",
            ],
        ),
        (
            lambda e, faces, at: export.run(ExportConfig(embeddings=e, out=f"{at}/v.npy")),
            ["vectors", "ids", "rows", "dim", "dtype"],
        ),
        (
            lambda e, faces, at: export.run(ExportConfig(embeddings=e, out=f"{at}/v.npy", keys=True, faces=faces)),
            ["vectors", "ids", "keys", "rows", "dim", "dtype"],
        ),
        (
            lambda e, faces, at: compare.run(CompareConfig(old=e, new=e, threshold=0.5, picture=f"{at}/v.png")),
            [
                *("faces", "people", "models.old", "models.new"),
                *(f"{model}.{name}" for model in ("old", "new") for name in ("genuine", "impostor", "auc")),
                *(f"operating_points.{name}" for name in ("far", "old", "new")),
                *(f"rank1.{name}" for name in ("old", "new", "changed", "lost", "won")),
                *(f"threshold.{name}" for name in ("old", "far", "new")),
                "picture",
            ],
        ),
    ],
    ids=["check", "check-faces", "stats", "export", "export-keys", "compare"],
)
def test_of_embeddings(
    chain: Chain, tmp_path: Path, run: Callable[[str, str, Path], dict[str, Any]], expected: list[str]
) -> None:
    assert sorted(names(run(chain.embeddings, chain.faces, tmp_path))) == sorted(expected)
