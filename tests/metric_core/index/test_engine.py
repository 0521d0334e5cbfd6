import importlib
import sys

import pytest

from metric_core.errors import ConfigError
from metric_core.index import engine


def test_missing_faiss_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r'pip install "likeness-faces\[cpu\]"') as caught:
        importlib.reload(engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["1.9.0", "1.14.2", "0.99"])
def test_a_faiss_that_is_too_old_is_one_line_that_says_why_and_what_to_do(monkeypatch, version):
    monkeypatch.setattr(engine.faiss, "__version__", version)
    with pytest.raises(ConfigError, match=rf"FAISS {version} .* 1\.15 or later, because .*--upgrade") as caught:
        importlib.reload(engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["1.15.0", "1.20.1", "2.0"])
def test_newer_releases_of_faiss_are_accepted(monkeypatch, version):
    monkeypatch.setattr(engine.faiss, "__version__", version)
    importlib.reload(engine)
