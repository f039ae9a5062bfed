"""Downloads of published weights: torchvision's files, and timm's on the Hugging Face hub."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from ..download import OPEN_SECONDS, READ_SECONDS, PublishedFile, fetch, is_published, within
from ..errors import UserError
from ..paths import expand
from .published import PublishedWeights

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_ALTERNATIVES = (
    "give the path of a file of weights in place of the name; a run that trains can also start "
    "from random values (--weights none)"
)


def fetch_published(entry: PublishedWeights, cache: Path | None = None) -> Path:
    """Return the file of a published set, downloaded if it is not on this machine yet.

    Args:
        entry: A row of the table of published weights.
        cache: Folder for the file; by default ``$FLAX_RESNET_CACHE/weights`` or, where that
            is not set, ``~/.cache/flax_resnet/weights``.

    Returns:
        The path of the file, with the right checksum, in ``cache`` or in the cache of torch.hub.

    Raises:
        UserError: The file could not be downloaded.
    """
    file = PublishedFile(entry.file, entry.url, size=None, sha256=entry.sha256)
    target = (cache or _cache_folder()) / entry.file
    for path in (target, _torch_hub_folder() / entry.file):
        if is_published(path, file):
            return path
    fetch(file, target, _ALTERNATIVES)
    return target


def fetch_timm(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the weights of a repository on the Hugging Face hub, in timm's layout.

    A repository in the cache of ``huggingface_hub`` is read there, without a request to the hub;
    its environment variables (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``,
    ``HF_ENDPOINT``, ...) hold here too.

    Args:
        name: Name of the repository, such as ``"timm/resnet50.a1_in1k"``.

    Returns:
        The path of ``model.safetensors``, and the ``pretrained_cfg`` of ``config.json``: ``mean``,
        ``std``, ``input_size``, ``crop_pct``, ``interpolation``, ``num_classes``, ...

    Raises:
        UserError: No such repository, no weights in it, no connection, or no ``huggingface_hub``.
    """
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"{name} comes from the Hugging Face hub, which needs the package huggingface_hub: "
            f"pip install huggingface_hub, or {_ALTERNATIVES}"
        ) from error
    try:
        try:
            weights, config = _both_files(name, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            _check_hub(name)
            weights, config = _both_files(name)
    # HTTPError is that of the HTTP library below, and so every error status of the hub.
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(_failure(name, error)) from error
    return weights, _pretrained_cfg(config)


def _cache_folder() -> Path:
    root = os.environ.get("FLAX_RESNET_CACHE") or "~/.cache/flax_resnet"
    return expand(root) / "weights"


def _torch_hub_folder() -> Path:
    root = os.environ.get("TORCH_HOME") or "~/.cache/torch"
    return expand(root) / "hub" / "checkpoints"


def _both_files(name: str, **options: Any) -> tuple[Path, Path]:
    """Return both files of a repository, from the cache or, where allowed, from the hub."""
    from huggingface_hub import hf_hub_download

    weights, config = (
        hf_hub_download(name, file, **options) for file in (WEIGHTS_FILE, CONFIG_FILE)
    )
    return Path(weights), Path(config)


def _check_hub(name: str) -> None:
    """Check with one request that the hub has the weights.

    ``hf_hub_download`` by itself retries for 23 seconds without a network, and for minutes where
    packets are dropped.

    Raises:
        TimeoutError: No answer within OPEN_SECONDS.
        OSError or huggingface_hub's errors: no connection, or no such file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(name, WEIGHTS_FILE)
    within(OPEN_SECONDS, partial(get_hf_file_metadata, url, timeout=READ_SECONDS))


def _failure(name: str, error: Exception) -> str:
    """Return a message that names the problem and what to do."""
    from huggingface_hub import constants, errors, hf_hub_url

    address = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, errors.HFValidationError):
        problem = (
            f"{name!r} cannot be the name of a repository on the Hugging Face hub: give one such "
            "as timm/resnet50.a1_in1k"
        )
    elif isinstance(error, errors.GatedRepoError):
        problem = (
            f"{address} is not open to everyone: ask for access on that page and log in with the "
            "command hf auth login"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        problem = f"there is no repository at {address}, or it is private: check the name"
    elif isinstance(error, errors.RemoteEntryNotFoundError):
        problem = (
            f"the repository {address} lacks {WEIGHTS_FILE} or {CONFIG_FILE}, so it is not one of "
            "timm's with weights: choose another"
        )
    else:
        return (
            f"{WEIGHTS_FILE} and {CONFIG_FILE} of {name} are not both in {constants.HF_HUB_CACHE} "
            f"and could not be downloaded from the Hugging Face hub ({_reason(error)}): bring the "
            f"weights over from {hf_hub_url(name, WEIGHTS_FILE)} by other means and {_ALTERNATIVES}"
        )
    return f"{problem}, or {_ALTERNATIVES}"


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    reason = " ".join(str(error).split()) or type(error).__name__
    answered = isinstance(error, errors.HfHubHTTPError)
    if not answered and isinstance(error, errors.HTTPError | ConnectionError | TimeoutError):
        return f"no connection: {reason}"
    return reason


def _pretrained_cfg(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        # Early repositories have its entries at the top.
        found = config.get("pretrained_cfg", config)
        if not isinstance(found, dict):
            raise TypeError("pretrained_cfg is not an object")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Not the file alone: it is a link, and the hub's cache would set it up again.
        raise UserError(
            f"{path} cannot be read as timm's description of its weights ({error}): delete the "
            f"folder {path.parents[2]} and run again"
        ) from error
    return found
