"""Errors of object stores, as one sentence with the reason."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageError, UserError, first_line
from .addresses import bucket_and_key, is_remote


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn the errors of a store into one sentence; those of local files pass.

    Args:
        path: What the body uses.
        action: What it does with it, such as ``"written"``.

    Raises:
        StorageError: There are no credentials, no such bucket, no permission, or no connection.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        reason = reason_of(path, error)
        if reason is None and re.search(r"NOT_FOUND|\b404\b|FileNotFound", repr(error)):
            bucket = str(path).removesuffix(bucket_and_key(path)[1]).rstrip("/")
            reason = f"there is no bucket {bucket}, or the credentials do not show it"
        reason = reason or first_line(error)
        raise StorageError(f"{path} cannot be {action}: {reason}.") from error


def reason_of(path: Path, error: Exception) -> str | None:
    """Say in plain words why a store refused; None where the error shows another fault."""
    bucket, key = bucket_and_key(path)
    scheme = str(path).partition(":")[0]
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    text = " ".join(f"{type(one).__name__} {getattr(one, 'code', '')} {one}" for one in chain)
    text = text.replace(key or bucket, "")  # names that people choose say nothing
    for pattern, reason in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return reason.format(bucket=f"{scheme}://{bucket}", credentials=_CREDENTIALS[scheme])
    return None


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
}
# In this order: what the first pattern finds, libraries report as a refusal too.
_REASONS = (
    (r"NoSuchBucket|bucket does not exist|bucket .*not found", "there is no bucket {bucket}"),
    (
        r"NoCredentials|Unable to locate credentials|DefaultCredentials|PartialCredentials"
        r"|credentials .*(not found|missing)|Anonymous caller|\b401\b|InvalidAccessKeyId"
        r"|SignatureDoesNotMatch|ExpiredToken",
        "there are no valid credentials for {bucket} ({credentials})",
    ),
    (
        r"\b403\b|AccessDenied|Access Denied|Forbidden|PermissionError|PERMISSION_DENIED",
        "the credentials do not permit it in {bucket}",
    ),
    (
        r"Connect|Timeout|timed out|UNAVAILABLE|Connection|IncompleteRead|ServerDisconnected"
        r"|Cannot connect|PayloadError|EndpointConnection|ABORTED",
        "the connection to {bucket} failed; check the network, and the address in AWS_ENDPOINT_URL "
        "or STORAGE_EMULATOR_HOST where one is set",
    ),
)
