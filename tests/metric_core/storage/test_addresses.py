"""Secrets are cut out of every address in a text, and nothing else is."""

import time

import pytest

from metric_core import storage
from metric_core.errors import ConfigError
from metric_core.storage.addresses import file_system

CUT = {
    "http://user:pw@mlflow:5000": "http://mlflow:5000",
    "https://tok3n@mlflow.example.org/api": "https://mlflow.example.org/api",
    "http://:pw@host": "http://host",
    "postgresql://user:p@ss@host:5432/runs": "postgresql://host:5432/runs",
    "postgresql+psycopg2://user:p%40ss@host/runs": "postgresql+psycopg2://host/runs",
    "mysql://u:12345@host/runs": "mysql://host/runs",
    "s3://AKIA:sec/ret+x=@bucket/faces": "s3://bucket/faces",
    "simplecache::s3://key:secret@bucket/a": "simplecache::s3://bucket/a",
    "s3://k:s@b/one,s3://k:s@b/two": "s3://b/one,s3://b/two",
    "MLflow at http://u:pw@h:1 cannot be used: [x] 'http://u:pw@h:1/api'; correct": (
        "MLflow at http://h:1 cannot be used: [x] 'http://h:1/api'; correct"
    ),
    '{"uri": "http://u:p@h", "n": 1}': '{"uri": "http://h", "n": 1}',
    "likeness train --tracking-uri=http://u:p@h --out x": "likeness train --tracking-uri=http://h --out x",
    "postgresql://host/runs?user=me&password=pw": "postgresql://host/runs",
    "postgresql://host/runs?password=pw&sslmode=require": "postgresql://host/runs?sslmode=require",
    "postgresql://host/runs?sslmode=require&Password=pw": "postgresql://host/runs?sslmode=require",
    "https://a.blob/x?sv=1&sig=abc%3D#part": "https://a.blob/x?sv=1#part",
    "https://s3/x?X-Amz-Credential=A%2F1&X-Amz-Signature=f00&X-Amz-Security-Token=t": "https://s3/x",
    "https://h/x?access_token=abc.": "https://h/x",
    'Invalid bucket name "AKIA:secret@bucket": it must': 'Invalid bucket name "bucket": it must',
    "cannot reach user:pw@host": "cannot reach host",
}

KEPT = [
    "/pictures/anna@home/1.jpg",
    "s3://bucket/anna@home/a:b@c.jpg",
    "http://host:5000/path@v1",
    "http://mlflow:5000/#/experiments/1?x=2",
    "models:/likeness@champion",
    "file:///tmp/a b@c",
    "sqlite:////home/me/mlflow.db",
    "https://h/x?version=3&page=2",
    "is that so? yes & no",
    "write to me@example.org",
    "identity: anna, key: a@b",
    "10:15 me@example.org",
    "abfs://container@account.dfs.core.windows.net/faces",
]


@pytest.mark.parametrize(("text", "expected"), CUT.items())
def test_secrets_are_cut_out(text: str, expected: str) -> None:
    assert storage.without_secrets(text) == expected
    assert storage.without_secrets(expected) == expected, "cut once is cut"


@pytest.mark.parametrize("text", KEPT)
def test_the_rest_stays(text: str) -> None:
    assert storage.without_secrets(text) == text


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "a://" * 50_000, "a:" * 100_000, "http://" + "a:" * 50_000, "?&" * 99_999]
)
def test_long_texts_take_no_time(text: str) -> None:
    start = time.process_time()
    storage.without_secrets(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:s3cret@bucket/x",
        "s3://AKIA:s3/cret@bucket/x",
        "simplecache::s3://AKIA:s3cret@bucket/x",
        "sftp://ann:s3cret@host/x",
        "https://h/x?sig=s3cret",
        "https://h/x?X-Amz-Signature=s3cret&n=1",
    ],
)
def test_no_store_is_opened_with_a_secret_in_its_address(address: str) -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as refused:
        file_system(address)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("address", ["memory://x/a b:c@d.jpg", "/data/a:b@c.jpg", "memory://x/1.jpg?key=2"])
def test_names_that_look_like_secrets_are_none(address: str) -> None:
    file_system(address)
