"""Bodies of requests: read with a limit, and parsed to photos; ``Refusal`` says what is wrong."""

import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Status of the answer.
        sentence: What is wrong and what to do.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = HTTPStatus(status)
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Upload(NamedTuple):
    """A photo as it was sent: its name and the bytes of its file."""

    name: str
    content: bytes


def check_length(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuse a body whose length is known to be too large."""
    length = headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > max_bytes:
        raise _too_large(max_bytes)


async def read_body(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Return a body of at most ``max_bytes``."""
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        held.append(chunk)
    return b"".join(held)


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"The request has more than the {max_bytes / 2**20:g} MiB that are allowed: send smaller "
        "photos, or fewer at once.",
    )


def parse_uploads(content_type: str, body: bytes, max_photos: int) -> list[Upload]:
    """Return the photos of a body: the files of a form, or the base64 strings of JSON.

    Raises:
        Refusal: The body has another form, no photo, or too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = _form_files(content_type, body, max_photos)
    elif kind == "application/json":
        uploads = _json_images(parse_json(body), max_photos)
    else:
        raise Refusal(
            415,
            f"The content type is {kind[:80] or 'missing'}: send multipart/form-data with photos "
            'as files, or application/json with {"images": [base64, ...]}.',
        )
    if not uploads:
        raise Refusal(400, "The request holds no photo: send at least one.")
    return uploads


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the object of a body in JSON."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise Refusal(400, "The JSON is nested too deeply.") from None
    except ValueError as error:
        raise Refusal(400, f"The body is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The JSON must be an object.")
    return value


def check_count(count: int, max_photos: int) -> None:
    """Refuse a request with too many photos."""
    if count > max_photos:
        raise Refusal(
            413,
            f"The request has more than the {max_photos:,} photos that are allowed: send fewer.",
        )


def decode_base64(text: Any, name: str) -> bytes:
    """Return the bytes of a base64 string."""
    if not isinstance(text, str):
        raise Refusal(400, f"{name} must be a string in base64.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            400, f"{name} is not valid base64: encode the bytes of the file, without a prefix."
        ) from None


def _json_images(value: dict[str, Any], max_photos: int) -> list[Upload]:
    images = value.get("images")
    if not isinstance(images, list) or value.keys() != {"images"}:
        raise Refusal(400, 'The JSON must be {"images": [base64, ...]}, the bytes of photo files.')
    check_count(len(images), max_photos)
    return [
        Upload(str(number), decode_base64(text, f"Image {number}"))
        for number, text in enumerate(images)
    ]


def _form_files(content_type: str, body: bytes, max_photos: int) -> list[Upload]:
    """Return the files of a form; they stay in memory."""
    uploads: list[Upload] = []
    ends: list[bool] = []

    def on_file(file: Any) -> None:
        name = (file.file_name or b"").decode("utf-8", "surrogateescape")
        uploads.append(Upload(name, file.file_object.getvalue()))
        check_count(len(uploads), max_photos)

    def on_field(field: Any) -> None:
        name = (field.field_name or b"").decode(errors="replace")
        raise Refusal(
            400,
            f"The field {name[:80]!r} of the form is no file: send each photo as a file with a "
            "file name.",
        )

    _, options = parse_options_header(content_type)
    try:
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=lambda: ends.append(True),
            boundary=options.get(b"boundary"),
            config={"MAX_MEMORY_FILE_SIZE": float("inf"), "UPLOAD_ERROR_ON_BAD_CTE": True},
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise Refusal(400, f"The form cannot be read ({error}).") from None
    if not ends:
        raise Refusal(400, "The form is cut off: its last boundary is missing.")
    return uploads
