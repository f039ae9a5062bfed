"""Downloads of published weights: torchvision's files, and repositories of the Hugging Face hub."""

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..download import OPEN_SECONDS, READ_SECONDS, PublishedFile, fetch, is_published, within
from ..errors import UserError
from ..paths import cache_folder, expand, process_folder, writable_folder
from ..text_files import parse_json
from .published import PublishedWeights
from .shipped_weights import shipped_weights

# The files of weights of a repository, in the order they are looked for.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
CONFIG_FILE = "config.json"
# Other files that describe the weights, by a key of the config.json that goes with them.
DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "flax_resnet": (),  # ours
    "architecture": (),  # timm's
    "model_type": ("preprocessor_config.json",),  # transformers'
    "model.name": ("classes.json", "preprocessing.json"),  # a run's folder
}
_ALTERNATIVES = (
    "give the path of a file of weights in place of the name; a run that trains can also start "
    "from weights that need no network ("
    + "".join(f"--weights {one.name}, " for one in shipped_weights())
    + "or from random values, --weights none)"
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
    target = (cache or cache_folder() / "weights") / entry.file
    for path in (target, _torch_hub_folder() / entry.file):
        if is_published(path, file):
            return path
    return fetch(file, target, _ALTERNATIVES)


def fetch_timm(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the weights of a repository on the Hugging Face hub, in timm's layout.

    Args:
        name: Name of the repository, such as ``"timm/resnet50.a1_in1k"``.

    Returns:
        The path of the weights, and ``config.json``: ``architecture``, ``pretrained_cfg`` with
        ``mean``, ``std``, ``input_size``, ``crop_pct``, ``interpolation``, ...

    Raises:
        UserError: As ``fetch_repository``.
    """
    folder = fetch_repository(name)
    return weights_in(folder), _timm_config(folder / CONFIG_FILE)


def fetch_repository(name: str) -> Path:
    """Return a folder with the files of a repository on the Hugging Face hub.

    A repository in the cache of ``huggingface_hub`` is read there, without a request to the hub;
    its environment variables (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``,
    ``HF_ENDPOINT``, ...) hold here too.

    Args:
        name: Name of the repository, such as ``"microsoft/resnet-50"``.

    Returns:
        A folder that holds ``config.json``, the weights, and the files that describe them.

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
        return _cached(name) or _downloaded(name)
    # HTTPError is that of the HTTP library below, and so every error status of the hub.
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(_failure(name, error)) from error


def weights_in(folder: Path) -> Path:
    """Return the file of weights in a repository's folder: the first of ``WEIGHTS_FILES``."""
    found = [folder / file for file in WEIGHTS_FILES if (folder / file).exists()]
    return found[0] if found else folder / WEIGHTS_FILES[0]


def _torch_hub_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return expand(root) / "hub" / "checkpoints"


def _cached(name: str) -> Path | None:
    """Return the folder of a repository whose files are all in the cache, else None."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG_FILE)
    weights = [try_to_load_from_cache(name, file) for file in WEIGHTS_FILES]
    if not isinstance(config, str) or not any(isinstance(path, str) for path in weights):
        return None
    folder = Path(config).parent
    # Of a file that the hub is known not to have, the cache returns an object; else None.
    found = [try_to_load_from_cache(name, file) for file in _descriptions(folder)]
    return None if None in found else folder


def _downloaded(name: str) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    cache = writable_folder(constants.HF_HUB_CACHE)
    if cache is None:
        cache = process_folder() / "hub"
        note = f"{constants.HF_HUB_CACHE} cannot be written, so {name} is downloaded for this"
        print(f"note: {note} process only.", file=sys.stderr)
    hf_hub_download(name, _weights_file(name), cache_dir=cache)
    folder = Path(hf_hub_download(name, CONFIG_FILE, cache_dir=cache)).parent
    for file in _descriptions(folder):
        with contextlib.suppress(errors.RemoteEntryNotFoundError):
            hf_hub_download(name, file, cache_dir=cache)
    return folder


def _descriptions(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that describe weights next to this ``config.json``."""
    try:
        config = parse_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()  # reported where it is read
    keys = config if isinstance(config, dict) else ()
    return next((files for key, files in DESCRIPTIONS.items() if key in keys), ())


def _weights_file(name: str) -> str:
    """Return the name of the repository's file of weights, after one request or two.

    ``hf_hub_download`` by itself retries for 23 seconds without a network, and for minutes where
    packets are dropped.

    Raises:
        TimeoutError: No answer within OPEN_SECONDS.
        OSError or huggingface_hub's errors: no connection, or no such file.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    for file in WEIGHTS_FILES:
        check = partial(get_hf_file_metadata, hf_hub_url(name, file), timeout=READ_SECONDS)
        try:
            within(OPEN_SECONDS, check)
        except errors.RemoteEntryNotFoundError as error:
            missing = error
        else:
            return file
    raise missing


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
            f"the repository {address} lacks {WEIGHTS_FILES[0]} or {CONFIG_FILE}, so it is not one "
            "with a model's weights: choose another"
        )
    else:
        return (
            f"The files of {name} are not all in {constants.HF_HUB_CACHE} and could not be "
            f"downloaded from the Hugging Face hub ({_reason(error)}): bring the weights over from "
            f"{hf_hub_url(name, WEIGHTS_FILES[0])} by other means and {_ALTERNATIVES}"
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


def _timm_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
        # Early repositories have the entries of pretrained_cfg at the top.
        if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg", {}), dict):
            raise TypeError("pretrained_cfg is not an object")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Not the file alone: it is a link, and the hub's cache would set it up again.
        raise UserError(
            f"{path} cannot be read as timm's description of its weights ({error}): delete the "
            f"folder {path.parents[2]} and run again"
        ) from error
    return config
