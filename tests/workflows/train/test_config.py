from dataclasses import replace
from typing import Any

import pytest
import torch

from metric_core.errors import ConfigError
from metric_core.image.spec import BLANK_MEAN_FACE
from metric_core.learn.objective import Objective
from metric_core.learn.schedule import Hardening
from workflows.train.config import TrainConfig
from workflows.train.training import with_precision

CONFIG = TrainConfig(faces="faces", out="model")


@pytest.mark.parametrize(
    ("able", "gpu", "expected"),
    [
        ({}, False, "float32"),
        ({"avx512_bf16": False}, False, "float32"),
        ({"avx512_bf16": True}, False, "bf16"),
        ({"amx_bf16": True}, False, "bf16"),
        ({}, True, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_device_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert with_precision(replace(CONFIG, gpu=gpu)).precision == expected


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_a_precision_other_than_auto_is_kept(precision: str) -> None:
    asked = replace(CONFIG, precision=precision)
    assert with_precision(asked) == asked


@pytest.mark.parametrize(("align", "crop"), [("none", 0.8), ("mean-face", 0.8), ("arcface", 1.0)])
def test_the_default_crop_depends_on_the_alignment(align: str, crop: float) -> None:
    how = replace(CONFIG, align=align).model_spec(BLANK_MEAN_FACE).preprocessing
    assert (how.align, how.crop, bool(how.mean_face)) == (align, crop, align == "mean-face")
    assert replace(CONFIG, align="none", crop=0.5).model_spec(BLANK_MEAN_FACE).preprocessing.crop == 0.5


@pytest.mark.parametrize("name", ["workers", "cpus_per_worker", "steps", "checkpoint_every"])
def test_a_problem_is_reported_once(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as error:
        replace(CONFIG, **{name: 0})
    assert str(error.value).count(f"{name} is 0") == 1


@pytest.mark.parametrize(("how", "problem"), [({"crop": 0.0}, "crop"), ({"align": "arcface", "crop": 0.9}, "arcface")])
def test_crops_that_do_not_fit(how: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        replace(CONFIG, **how)


@pytest.mark.parametrize(
    ("how", "objective", "problem"),
    [
        ({}, {"loss": "softall"}, "found softall"),
        ({}, {"memory_rows": 64, "hardest_from_memory": True}, "miner is 'semi-hard' with a memory"),
        ({"hardening": Hardening(margin_factor=20)}, {}, "margin is 4.0"),
    ],
)
def test_hardening_is_refused_where_it_would_fail_in_the_workers(how: dict, objective: dict, problem: str) -> None:
    asked = {"objective": Objective(**objective), **how}
    with pytest.raises(ConfigError, match=f"harden does not go with this objective: .*{problem}"):
        replace(CONFIG, harden=True, **asked)
    assert replace(CONFIG, **asked).objective == Objective(**objective), "nothing is wrong without it"


@pytest.mark.parametrize("name", ["register", "experiment"])
def test_names_that_mlflow_would_refuse_at_the_end_are_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is ''; it must not be empty"):
        replace(CONFIG, **{name: ""})


@pytest.mark.parametrize(
    ("workers", "fewest", "most"), [(1, 1, 1), (3, 3, 3), ("3", 3, 3), ("2:8", 2, 8), ("1:1", 1, 1), ("08", 8, 8)]
)
def test_workers_are_a_number_or_a_range(workers: int | str, fewest: int, most: int) -> None:
    config = TrainConfig(faces="f", out="o", workers=workers)
    assert (config.fewest_workers, config.most_workers) == (fewest, most)


@pytest.mark.parametrize(
    ("workers", "more", "message"),
    [
        (0, {}, "workers is 0; it must be 1 or more"),
        (-1, {}, "workers is -1; it must be a number, or MIN:MAX such as 2:8"),
        ("0:3", {}, "workers is '0:3'; it must be 1 or more"),
        ("8:2", {}, "workers is '8:2'; the first number must not be larger than the second"),
        ("2:", {}, "workers is '2:'; it must be a number, or MIN:MAX such as 2:8"),
        ("many", {}, "workers is 'many'; it must be a number, or MIN:MAX such as 2:8"),
        ("2:40", {}, "identities is 32; it must be 2 or more, and at least workers, 40"),
        ("1:2", {"norm": "batch"}, "workers is '1:2'; with --norm batch their number must be fixed: BatchNorm"),
        (True, {}, "workers is True; expected a whole number or a string"),
    ],
)
def test_other_numbers_of_workers_are_refused(workers: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TrainConfig(faces="f", out="o", workers=workers, **more)
    assert str(raised.value).startswith(message)
