import pytest

from metric_core.errors import DataError
from metric_core.evaluate.pairs import read_pairs

GOOD = "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t3\nEva_Li\t10\t2\nBob\t1\tEva_Li\t1\n"


def test_folds():
    pairs = read_pairs(GOOD, "p.txt")
    assert pairs.a_key_N.tolist() == ["Ann/Ann_0001", "Ann/Ann_0001", "Eva_Li/Eva_Li_0010", "Bob/Bob_0001"]
    assert pairs.b_key_N.tolist() == ["Ann/Ann_0002", "Bob/Bob_0003", "Eva_Li/Eva_Li_0002", "Eva_Li/Eva_Li_0001"]
    assert pairs.same_N.tolist() == [True, False, True, False]
    assert pairs.fold_N.tolist() == [0, 0, 1, 1]


def test_single_fold_blank_lines_line_ends_and_spaces():
    pairs = read_pairs("1\r\nAnn 1 2\r\n\r\nAnn 1 Bob 3\r\n", "p.txt")
    assert (len(pairs), pairs.fold_N.tolist()) == (2, [0, 0])
    assert read_pairs("1\nAnn Lee\t1\t2\nAnn Lee\t1\tBob\t3\n", "p").a_key_N[0] == "Ann Lee/Ann Lee_0001"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.txt is empty"),
        ("Ann\t1\t2\n", r"p.txt, line 1: 'Ann\\t1\\t2' is not a header"),
        ("0\t3\n", "line 1: .* is not a header"),
        ("1\t2\t3\n", "line 1: .* is not a header"),
        (GOOD + "Bob\t1\t2\n", r"p.txt: 5 pairs, but the header announces 2 x \(1 genuine \+ 1 impostor\) = 4"),
        (GOOD.replace("Eva_Li\t10\t2", "Eva_Li\t10"), "line 4: .* is not a pair .2 columns"),
        (GOOD.replace("Eva_Li\t10\t2", "Eva_Li\tten\t2"), "line 4: .*'ten' is not a picture number"),
        (GOOD.replace("Eva_Li\t10\t2", "Eva_Li\t0\t2"), "line 4: .*'0' is not a picture number"),
        (GOOD.replace("Eva_Li\t10\t2", "Eva_Li\t-1\t2"), "line 4: .*'-1' is not a picture number"),
        (GOOD.replace("Eva_Li\t10\t2", "\t10\t2"), "line 4: .*no name"),
        (GOOD.replace("Eva_Li\t10\t2", "Eva_Li\t2\t2"), "line 4: .*paired with itself"),
        (GOOD.replace("Eva_Li\t10\t2", "Ann\t1\tBob\t2"), "line 4: an impostor pair where fold 2 must have a genuine"),
        (GOOD.replace("Ann\t1\tBob\t3", "Ann\t1\t3"), "line 3: a genuine pair where fold 1 must have an impostor"),
        (GOOD.replace("Ann\t1\tBob\t3", "Ann\t1\tAnn\t3"), "line 3: an impostor pair of one person, Ann"),
    ],
)
def test_malformed_lists_name_file_and_line(text, message):
    with pytest.raises(DataError, match=message):
        read_pairs(text, "p.txt")


@pytest.mark.parametrize(
    ("name", "folds", "side"),
    [("protocols/lfw_pairs.txt", 10, 300), ("lfw_dev/pairs_valid.txt", 2, 280), ("lfw_dev/pairs_train.txt", 4, 270)],
)
def test_lists_of_lfw(data_root, name, folds, side):
    path = data_root / name
    if not path.is_file():
        pytest.skip(f"no {path}: set LIKENESS_DATA to the folder that holds {name}")
    pairs = read_pairs(path.read_text(), str(path))
    assert len(pairs) == folds * 2 * side
    assert pairs.same_N.sum() == folds * side
    assert sorted(set(pairs.fold_N)) == list(range(folds))
