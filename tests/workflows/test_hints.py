"""What is suggested for an option that does not exist."""

import pytest
from support.commands import ACCEPTED

from workflows import arguments, cli, hints

CASES = [
    ("train", "--lr", "; did you mean --learning-rate?"),
    ("train", "--resume", "; none is needed: the same command continues an interrupted run"),
    ("search", "--resume", ""),
    (
        "train",
        "--batch-size",
        "; did you mean --identities and --images (a batch is P people with K pictures each)?",
    ),
    ("embed", "--batch-size", "; did you mean --batch?"),
    ("train", "--epochs", "; did you mean --steps?"),
    ("train", "--device", "; did you mean --gpu?"),
    ("train", "--cuda", "; did you mean --gpu?"),
    ("train", "--num-workers", "; did you mean --workers?"),
    ("embed", "--num-workers", "; did you mean --actors?"),
    ("demo", "--nproc", "; did you mean --workers?"),
    ("index", "--output", "; did you mean --out?"),
    ("index", "--save", "; did you mean --out?"),
    ("catalogue", "--data", "; did you mean --source?"),
    ("train", "--dataset", "; did you mean --faces?"),
    ("evaluate", "--input", "; did you mean --embeddings?"),
    ("search", "--input", "; did you mean --image or --embeddings?"),
    ("embeddings compare", "--input", "; did you mean --old and --new?"),
    ("search", "--topk", "; did you mean --top?"),
    ("search", "--k", "; did you mean --top?"),
    ("evaluate", "--k", "; did you mean --neighbours?"),
    ("train", "--margin", "; did you mean --objective.margin?"),
    ("train", "--loss", "; did you mean --objective.loss?"),
    ("train", "--temperature", "; did you mean --objective.temperature?"),
    ("train", "--model.loss", "; did you mean --objective.loss?"),
    ("train", "--learning_rate", "; did you mean --learning-rate?"),
    ("train", "--Steps", "; did you mean --steps?"),
    ("train", "--learn", "; did you mean --learning-rate?"),
    ("train", "--objectiv.margn", "; did you mean --objective.margin?"),
    ("train", "--temprature", "; did you mean --objective.temperature?"),
    ("train", "--color", "; did you mean --colour?"),
    ("train", "--no-gpus", "; did you mean --no-gpu?"),
    ("train", "--objective.ring", "; objective.ring is gone: batches are always gathered; delete the line"),
    ("train", "--no-objective.ring", "; objective.ring is gone: batches are always gathered; delete the line"),
    ("train", "-o", "; did you mean --out?"),
    ("train", "--xyzzy", ""),
    ("train", "--foo", ""),
    ("train", "--q", ""),
    ("verify", "--colour", ""),
]


def options(job: str) -> set[str]:
    parser = arguments._parser(cli.JOBS[job].config_class)
    return {name for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize(("job", "typed", "expected"), CASES)
def test_hints(job: str, typed: str, expected: str) -> None:
    assert hints.hint(typed, options(job)) == expected


def test_every_suggestion_is_an_option_of_some_job() -> None:
    known = {name.lstrip("-") for job in ACCEPTED for name in options(job)}
    for word, candidates in hints.MEANT.items():
        for candidate in candidates:
            assert set(candidate.split(" ")) - {"and", "or"} <= known, f"{word}: {candidate}"
    assert hints.NOTES.keys() <= {candidate for candidates in hints.MEANT.values() for candidate in candidates}
