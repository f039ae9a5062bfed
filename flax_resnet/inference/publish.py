"""Classifiers given back: folders in the layout of the Hugging Face hub, and their upload."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..download import OPEN_SECONDS, within
from ..errors import UserError
from ..file_names import escape
from ..output_files import open_text
from ..paths import expand
from ..report import model_card
from ..weights import Repository, write_repository

if TYPE_CHECKING:
    from .classifier import Classifier

CARD = "README.md"


def save_pretrained(
    classifier: Classifier,
    folder: str | Path,
    *,
    name: str | None = None,
    license: str | None = None,
) -> Repository:
    """Write a folder in the layout of the Hugging Face hub.

    It holds ``model.safetensors``, ``config.json`` and a model card, ``README.md``. Where timm can
    express the model, the first two are in its format, so that
    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` computes the same logits; else they
    are in ours, which the card says with the reason. ``load`` reads both.

    Args:
        classifier: The model.
        folder: A folder that does not exist or is empty.
        name: Name of the repository, for the card; by default that of the folder.
        license: The hub's word for the licence of the weights, such as ``"mit"`` or
            ``"apache-2.0"``, for the card; by default ``unknown``.

    Returns:
        The folder, its format, and why it is not timm's.

    Raises:
        UserError: The folder holds something already, or cannot be written.
    """
    path = expand(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already: choose another name for the folder.")
    repository = write_repository(path, classifier.variables, classifier.model, classifier.info)
    with open_text(path / CARD) as file:
        card = model_card(name or path.resolve().name, classifier.info, repository, license)
        file.write(escape(card))  # names of classes may hold any bytes
    return repository


def push_to_hub(
    classifier: Classifier,
    name: str,
    *,
    private: bool = False,
    license: str | None = None,
    update: bool = False,
    token: str | None = None,
) -> tuple[str, Repository]:
    """Upload a classifier to the Hugging Face hub, as ``save_pretrained`` writes it.

    Args:
        classifier: The model.
        name: Name of the repository, ``"org/name"``.
        private: Whether only its owners see it.
        license: As for ``save_pretrained``.
        update: Whether the repository may exist; its files of the same names are replaced by a
            new commit.
        token: An access token with the right to write; by default that of ``hf auth login`` or of
            the variable ``HF_TOKEN``.

    Returns:
        The address of the repository, and the format of its files.

    Raises:
        UserError: No token or one that the hub refuses, a repository that exists, an invalid name,
            or no connection.
    """
    from huggingface_hub import HfApi, constants, errors, get_token

    token = token or get_token()
    if token is None:
        raise UserError(
            "There is no access token of the Hugging Face hub: log in with the command hf auth "
            "login, or set the variable HF_TOKEN to one with the right to write."
        )
    if name.count("/") != 1:
        raise UserError(f"{name!r} is not the name of a repository: write it as org/name.")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        repository = save_pretrained(classifier, folder, name=name, license=license)
        try:
            within(OPEN_SECONDS, partial(api.whoami))
            url = str(api.create_repo(name, private=private, exist_ok=update))
            message = "Update the model" if update else "Add the model"
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
        except (errors.HTTPError, errors.HFValidationError, OSError) as error:
            raise UserError(_failure(name, error, constants.ENDPOINT)) from error
    return url, repository


def _failure(name: str, error: Exception, endpoint: str) -> str:
    """Return a sentence on why an upload failed, and what to do."""
    from huggingface_hub import errors

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} cannot be the name of a repository: write it as org/name."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{name} cannot be uploaded, because HF_HUB_OFFLINE is set: unset it."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 409:
        return (
            f"{endpoint}/{name} exists already: choose another name, or add a commit to it "
            "(flax-resnet push --update; update=True in Python)."
        )
    if status in (401, 403):
        return (
            f"{endpoint} refuses to write {name} with this access token ({status}): make one with "
            "the right to write there, and log in with the command hf auth login."
        )
    if status is not None:
        return (
            f"{endpoint} answered with an error while {name} was uploaded ({reason}): try again, "
            "with --update (update=True in Python) if the repository has been made."
        )
    return f"{name} cannot be uploaded, because there is no connection to {endpoint} ({reason})."
