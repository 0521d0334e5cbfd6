"""S3 for ``storage``: s3fs, but a store that does not answer or refuses the credentials raises ConnectionError.

botocore repeats requests, up to AWS_MAX_ATTEMPTS attempts (5 when it is not set).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as Unreachable
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from metric_core.errors import ConfigError

CREDENTIAL_ERRORS = {
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
}
"""Error codes about the credentials, not about the object; s3fs does not distinguish the two."""


class S3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """Raises ConnectionError when all retries failed or the credentials are refused; other errors are those of s3fs."""

    retries = 2
    """Retries by s3fs after an incomplete body or a timeout; for timeouts they multiply with botocore's retries."""

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with _raising_connection_error(f"{kwargs.get('Bucket')}/{kwargs.get('Key', '')}", method):
            return await super()._call_s3(method, *args, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        # The body of a response can break off after _call_s3 has returned. With a higher max_concurrency s3fs would
        # first request the object's size, to read large objects in parallel parts.
        with _raising_connection_error(path, "get_object"):
            return await super()._cat_file(path, *args, **kwargs | {"max_concurrency": 1})


@contextmanager
def _raising_connection_error(path: str, method: str) -> Iterator[None]:
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise ConfigError(
            f"s3://{path}: there are no credentials for the object store ({error}); set AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except (Unreachable, HTTPClientError) as error:
        raise _no_answer(path, method, error) from error
    except OSError as error:
        response = error.__cause__.response if isinstance(error.__cause__, ClientError) else {}
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise _no_answer(path, method, error) from error
        if response.get("Error", {}).get("Code") in CREDENTIAL_ERRORS:
            raise ConnectionError(
                f"s3://{path}: the object store refuses the credentials ({error}); finished work is kept; renew them "
                f"and start again with the same arguments"
            ) from error
        raise


def _no_answer(path: str, method: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"s3://{path}: the object store does not answer {method} ({error}); finished work is kept; start again with "
        f"the same arguments once it does"
    )
