import json
from pathlib import Path

import pytest

from metric_core.artefacts import manifest, migrate
from metric_core.errors import Corrupt, Missing, Occupied, SchemaMismatch, Unfinished

NEWER = migrate.format_of("matches") + 1


def test_write_then_read(tmp_path: Path) -> None:
    made = manifest.write(str(tmp_path), "matches", {"rows": 3, "b": [1, 2]}, {"host": "x"})
    found = manifest.read(str(tmp_path), "matches")
    assert (found.content, found.provenance, found.digest) == (made.content, made.provenance, made.digest)


def test_digest_covers_content_and_not_provenance(tmp_path: Path) -> None:
    one = manifest.write(str(tmp_path / "1"), "matches", {"a": 1, "b": 2}, {"host": "x"})
    two = manifest.write(str(tmp_path / "2"), "matches", {"b": 2, "a": 1}, {"host": "y"})
    other = manifest.write(str(tmp_path / "3"), "matches", {"a": 1, "b": 3}, {"host": "x"})
    assert one.digest == two.digest != other.digest


def test_an_edited_manifest_is_corrupt(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    path = tmp_path / manifest.NAME
    body = json.loads(path.read_text())
    body["content"]["rows"] = 4
    path.write_text(json.dumps(body))
    with pytest.raises(Corrupt, match=r"digest does not match its content.*to another --out"):
        manifest.read(str(tmp_path), "matches")
    path.write_text("{")
    with pytest.raises(Corrupt, match="not a manifest"):
        manifest.read(str(tmp_path), "matches")


def test_a_newer_format_is_not_taken_for_damage(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    path = tmp_path / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": NEWER, "digest": "of its own"}))
    with pytest.raises(SchemaMismatch, match=f"has format {NEWER} of matches, .* install Likeness 0.1.0 or later"):
        manifest.read(str(tmp_path), "matches")


def test_unfinished_missing_and_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        manifest.read(str(tmp_path / "no"), "matches")
    with pytest.raises(Unfinished, match="same arguments"):
        manifest.read(str(tmp_path), "matches")
    manifest.write(str(tmp_path), "model", {}, {})
    with pytest.raises(SchemaMismatch, match="model artefact; matches was expected"):
        manifest.read(str(tmp_path), "matches")


def test_begin_claims_continues_and_finishes(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert manifest.begin(out, "matches", {"n": 1}) is None
    assert manifest.begin(out, "matches", {"n": 1}) is None, "an interrupted run of the same plan continues"
    manifest.write(out, "matches", {"n": 1}, {})
    done = manifest.begin(out, "matches", {"n": 1})
    assert done is not None
    assert done.content == {"n": 1}


def test_begin_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(Occupied, match=r"holds holiday\.jpg"):
        manifest.begin(str(tmp_path), "matches", {})
    out = str(tmp_path / "out")
    manifest.begin(out, "matches", {"seed": 1, "size": 2})
    with pytest.raises(Occupied, match="seed: 1 there, 5 here"):
        manifest.begin(out, "matches", {"seed": 5, "size": 2})
    with pytest.raises(Occupied, match="holds matches, not model"):
        manifest.begin(out, "model", {"seed": 1, "size": 2})
    for text in ("{", "[]", '{"name": "a plan of another program"}', '{"kind": "matches", "plan": 3}'):
        Path(out, "plan.json").write_text(text)
        with pytest.raises(Occupied, match=r"plan\.json is damaged or not a plan of Likeness"):
            manifest.begin(out, "matches", {"seed": 1, "size": 2})


def test_a_difference_inside_an_option_is_reported_by_its_name(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    manifest.begin(out, "matches", {"preprocessing": {"size": 48, "colour": "rgb"}, "seed": None})
    with pytest.raises(Occupied, match=r"arguments \(preprocessing\.size: 48 there, 64 here\); repeat"):
        manifest.begin(out, "matches", {"preprocessing": {"size": 64, "colour": "rgb"}, "seed": None})


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    first = manifest.write(str(tmp_path), "matches", {"n": 1}, {"host": "x"})
    assert manifest.write(str(tmp_path), "matches", {"n": 1}, {"host": "y"}) == first
    with pytest.raises(Occupied, match="finished with other content by another run"):
        manifest.write(str(tmp_path), "matches", {"n": 2}, {})
    assert manifest.read(str(tmp_path), "matches") == first


def test_only_the_manifest_that_was_read_is_replaced(tmp_path: Path) -> None:
    first = manifest.write(str(tmp_path), "matches", {"n": 1}, {})
    second = manifest.replace(first, {"n": 2}, {"host": "x"})
    assert manifest.read(str(tmp_path), "matches") == second
    with pytest.raises(Occupied, match="changed by another run"):
        manifest.replace(first, {"n": 3}, {})
    assert [path.name for path in tmp_path.iterdir()] == [manifest.NAME]


def test_nan_never_enters_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.write(str(tmp_path), "matches", {"x": float("nan")}, {})
    assert not (tmp_path / manifest.NAME).exists()


def test_a_difference_in_a_long_value_is_reported_by_digest(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    manifest.begin(out, "matches", {"mean_face": "A" * 5000})
    with pytest.raises(Occupied, match=r"\(mean_face: sha256 [0-9a-f]{12}… there, sha256 [0-9a-f]{12}… here\)"):
        manifest.begin(out, "matches", {"mean_face": "B" * 5000})


@pytest.mark.parametrize(
    "damage",
    [{"format": "1"}, {"format": 0}, {"content": []}, {"content": None}, {"provenance": 5}, {"kind": 7}, {"digest": 1}],
    ids=str,
)
def test_a_damaged_manifest_is_corrupt(tmp_path: Path, damage: dict[str, object]) -> None:
    manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    path = tmp_path / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(Corrupt):
        manifest.read(str(tmp_path), "matches")


def test_a_content_that_is_a_list_is_corrupt_whatever_its_digest(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    path = tmp_path / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": [1], "digest": manifest.digest([1])}))
    with pytest.raises(Corrupt, match="is not a manifest"):
        manifest.read(str(tmp_path), "matches")


@pytest.mark.parametrize("damage", [{"format": float("inf")}, {"plan": None}, {"plan": [1]}, {"kind": None}], ids=str)
def test_a_damaged_plan_occupies_the_folder(tmp_path: Path, damage: dict[str, object]) -> None:
    manifest.begin(str(tmp_path), "matches", {"rows": 3})
    path = tmp_path / manifest.PLAN
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(Occupied, match="damaged or not a plan"):
        manifest.begin(str(tmp_path), "matches", {"rows": 3})


def test_a_generation_without_the_erased_names_its_predecessors(tmp_path: Path) -> None:
    first = manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    assert "predecessors" not in (tmp_path / manifest.NAME).read_text(), (
        "a first generation has the bytes it always had"
    )
    second = manifest.replace(first, {"rows": 2}, {}, erased=True)
    third = manifest.replace(second, {"rows": 1}, {}, erased=True)
    found = manifest.read(str(tmp_path), "matches")
    assert found == third
    assert found.predecessors == (first.digest, second.digest)
    assert found.origin == second.origin == first.origin == first.digest
    other = manifest.replace(third, {"rows": 4}, {})
    assert (other.predecessors, other.origin) == ((), other.digest), "for another reason: an artefact of its own"


@pytest.mark.parametrize("predecessors", [["0" * 64], [], "0" * 64, [1], None])
def test_predecessors_that_were_edited_are_corrupt(tmp_path: Path, predecessors: object) -> None:
    first = manifest.write(str(tmp_path), "matches", {"rows": 3}, {})
    manifest.replace(first, {"rows": 2}, {}, erased=True)
    path = tmp_path / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"predecessors": predecessors}))
    with pytest.raises(Corrupt):
        manifest.read(str(tmp_path), "matches")
