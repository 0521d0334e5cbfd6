"""S3 as ``storage`` speaks to it: s3fs, in which a store that does not answer is an OSError that says so.

Asking again is botocore's business, as often as AWS_MAX_ATTEMPTS says (5 times where it is not set).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as Unreachable
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

LOCKED_OUT = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
"""Answers that say something of who asks, not of the object. s3fs takes them for those about an object."""


class S3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """Raises ConnectionError when a request was repeated in vain or credentials are refused; other errors are those of
    s3fs."""

    retries = 2
    """By s3fs, of bodies that break off and of timeouts; the latter multiply with botocore's own."""

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with _told(f"{kwargs.get('Bucket')}/{kwargs.get('Key', '')}", method):
            return await super()._call_s3(method, *args, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        # One request, whose body can break off after the call was answered. To see whether a large object can be had
        # in parts side by side, s3fs would ask for its size before.
        with _told(path, "get_object"):
            return await super()._cat_file(path, *args, **kwargs | {"max_concurrency": 1})


@contextmanager
def _told(path: str, method: str) -> Iterator[None]:
    try:
        yield
    except (Unreachable, HTTPClientError) as error:
        raise _silent(path, method, error) from error
    except OSError as error:
        answer = error.__cause__.response if isinstance(error.__cause__, ClientError) else {}
        if answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise _silent(path, method, error) from error
        if answer.get("Error", {}).get("Code") in LOCKED_OUT:
            raise ConnectionError(
                f"s3://{path}: the object store refuses the credentials ({error}); what is done stays; renew them and "
                f"start again with the same arguments"
            ) from error
        raise


def _silent(path: str, method: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"s3://{path}: the object store does not answer {method} ({error}); what is done stays; start again with the "
        f"same arguments once it does"
    )
