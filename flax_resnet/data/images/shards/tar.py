"""The samples of a WebDataset shard: a tar file whose members share a key, such as ``7.jpg`` and
``7.cls``."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from flax_resnet.data.images.shards.index import Scan, Scanner
from flax_resnet.data.images.tree import is_ignored, is_image
from flax_resnet.errors import UserError

LABEL = "cls"
"""Extension of the member that holds a label alone."""
_JSON = "json"
_BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MAX_LABEL_BYTES = 1 << 20  # of a member cls or json


@dataclass
class _Sample:
    images: list[tarfile.TarInfo] = field(default_factory=list)
    others: dict[str, tarfile.TarInfo] = field(default_factory=dict)


def scan_tar(path: str, file: BinaryIO, wanted: tuple[str, ...]) -> Scan:
    """Find the images of a tar file and what may be their labels.

    A sample's key is the name of its members up to the first dot of the file's name, as in
    WebDataset; they need not follow each other.

    Args:
        path: The shard, for messages.
        file: Its content.
        wanted: Extension of the images, and name of the label: ``cls``, or a key of ``json``; empty
            if they are recognized.

    Raises:
        UserError: It is compressed or no tar file, or a sample has two images.
    """
    scanner = Scanner()
    samples = _samples(path, file, scanner)
    for key, sample in samples.items():
        images = [one for one in sample.images if not wanted or _extension(one.name) == wanted[0]]
        if len(images) > 1:
            raise UserError(
                f"{path}: the sample {key} has two images, {images[0].name} and {images[1].name}; "
                f"name the extensions of the image and of the label, as in "
                f"{_extension(images[0].name)},{LABEL} (--data.columns, or --columns of check and "
                "evaluate)"
            )
        if not images:
            if sample.images:
                scanner.leave_out(sample.images[0].name, f"is no {wanted[0]}")
            elif {LABEL, _JSON} & sample.others.keys():
                scanner.leave_out(key, "has a label and no image")
            continue
        (image,) = images
        fields = _fields(path, file, sample, wanted[1:2])
        if isinstance(fields, str):
            scanner.leave_out(image.name, fields)
            continue
        file.seek(image.offset_data)
        scanner.add(_shown(image.name), image.offset_data, file.read(image.size), fields)
    return scanner.result()


def _samples(path: str, file: BinaryIO, scanner: Scanner) -> dict[str, _Sample]:
    """Return the samples by their key."""
    head = file.read(8)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise UserError(
                f"{path} is compressed by {name}, so that its images cannot be read one by one: "
                "decompress it to .tar"
            )
    size = file.seek(0, 2)
    file.seek(0)
    samples: defaultdict[str, _Sample] = defaultdict(_Sample)
    if not size:
        scanner.leave_out("", "is empty")
        return samples
    seen: set[str] = set()
    last = ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                last = member.name
                _enter(path, member, size, samples, seen, scanner)
                tar.members = []  # type: ignore[attr-defined]  # they would fill the memory
            end = tar.offset
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        if not last:
            raise UserError(
                f"{path} cannot be read as a tar file ({error}): copy it again"
            ) from error
        scanner.leave_out("", f"is damaged or cut off, and what follows {last} is left out")
        return samples
    _check_end(file, size, end, scanner)
    return samples


def _enter(
    path: str,
    member: tarfile.TarInfo,
    size: int,
    samples: dict[str, _Sample],
    seen: set[str],
    scanner: Scanner,
) -> None:
    """Enter a member into its sample, or say why it is left out."""
    base = posixpath.basename(member.name)
    if member.isdir() or is_ignored(base) or not base:
        return
    key, extension = _split(member.name)
    if not member.isreg():
        if is_image(base):
            scanner.leave_out(member.name, "is a link or a special file")
        return
    if member.name in seen or _shown(member.name) in seen:
        raise UserError(
            f"{path} has two members {_shown(member.name)}: which is the sample is not clear; "
            "remove one"
        )
    seen |= {member.name, _shown(member.name)}
    if member.offset_data + member.size > size:
        if is_image(base):
            scanner.leave_out(member.name, "is cut off, because the shard ends in it")
        return
    if is_image(base):
        samples[key].images.append(member)
    else:
        samples[key].others[extension] = member


def _check_end(file: BinaryIO, size: int, end: int, scanner: Scanner) -> None:
    """Report a shard that does not end as a tar file does, after whose end tarfile is silent."""
    file.seek(min(end, size))
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        scanner.leave_out("", "ends without a tar file's end mark, so it may be cut off")
    elif block.strip(b"\0"):
        scanner.leave_out("", f"is damaged at byte {end:,}, and what follows is left out")
    else:
        while rest := file.read(1 << 20):
            if rest.strip(b"\0"):
                scanner.leave_out("", "has data after the end of its tar file, which are left out")
                return


def _fields(
    path: str, file: BinaryIO, sample: _Sample, wanted: tuple[str, ...]
) -> dict[str, Any] | str:
    """Return what may be the label of a sample by name; or why it is left out."""
    found: dict[str, Any] = {}
    for extension in dict.fromkeys((LABEL, _JSON, *wanted)):
        member = sample.others.get(extension)
        if member is None:
            continue
        if member.size > _MAX_LABEL_BYTES:
            return f"has a {extension} of {member.size:,} bytes, which is no label"
        file.seek(member.offset_data)
        content = file.read(member.size)
        try:
            text = content.decode("utf-8").strip().removeprefix("\ufeff")
            if extension != _JSON:
                found[extension] = text
                continue
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"has a damaged {extension} ({error})"
        if isinstance(value, dict):
            found |= {f"{_JSON}.{key}": one for key, one in value.items() if _is_scalar(one)}
        elif _is_scalar(value):
            found[_JSON] = value
    return found


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) or value is None


def _split(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member, as WebDataset divides its name."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def _extension(name: str) -> str:
    return _split(name)[1]


def _shown(name: str) -> str:
    """Return the name of a member without what would lead out of the shard."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
