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
