"""Corpus formats. Each reader turns a source into ``Found`` rows; ``fetch`` turns a row's locator into bytes.

Ids, splits and the catalogue itself are made from the rows elsewhere, so a new format is one new module here.
"""

from metric_core.data.readers.fetching import LOCATOR, Fetched, fetch, fetch_many
from metric_core.data.readers.found import Found, Source, resolve

__all__ = ["LOCATOR", "Fetched", "Found", "Source", "fetch", "fetch_many", "resolve"]
