"""The command that serves a classifier over HTTP."""

import os
import sys
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..paths import expand
from .grammar import command
from .images import load_classifier
from .notes import print_notes
from .options import ClassNames

TOKEN = "FLAX_RESNET_TOKEN"  # an environment variable


@command
def serve_command(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    engine: Literal["jax", "onnxruntime"] = "jax",
    batch_size: int = 16,
    max_delay_ms: float = 5.0,
    queue: int = 256,
    max_upload_mib: float = 32.0,
    max_megapixels: float = 50.0,
    timeout: float = 30.0,
    top_k: int = 5,
    token_file: str | None = None,
    tta: Literal["flip"] | None = None,
    temperature: float = 1.0,
    classes: ClassNames = None,
) -> None:
    """Classify photos over HTTP, and on a page to drop them on.

    POST photos as a form or as JSON to /predict; /openapi.json describes all routes. Ctrl-C or
    SIGTERM stops the server when all that has arrived is answered. The environment variable
    FLAX_RESNET_TOKEN holds a token that requests must bear.

    Args:
        model: A run's folder, a weights file, a published model such as resnet50, or an .onnx file.
        host: The address to listen at; 0.0.0.0 lets other machines in.
        port: The port; 0 takes a free one.
        name: Name of the model in /v2/models/NAME; by default that of its architecture.
        engine: What computes the model; an .onnx file is always computed by onnxruntime.
        batch_size: Photos in the largest batch.
        max_delay_ms: Milliseconds that a photo waits at most for others to fill a batch.
        queue: Photos that may wait; beyond it the answer is 429.
        max_upload_mib: Size of one request, in MiB.
        max_megapixels: Size of one photo, in millions of pixels.
        timeout: Seconds for one request.
        top_k: Classes for each photo, where a request does not say.
        token_file: Read the token from this file.
        tta: Average the logits with those of the mirror image.
        temperature: Divide the logits by this number.
    """
    try:
        from ..inference.serve import ServeSettings, create_app, run_server
        from ..inference.serve.server import is_loopback, open_socket, url_of
    except ImportError as error:
        raise UserError(
            f"flax-resnet serve needs {error.name}: pip install 'flax-resnet[serve]'"
        ) from error

    settings = ServeSettings(
        batch_size=batch_size,
        max_delay=max_delay_ms / 1000,
        queue=queue,
        max_upload=int(max_upload_mib * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        timeout=timeout,
        top_k=top_k,
        token=read_token(token_file),
    )
    with open_socket(host, port) as bound:
        classifier = load_classifier(model, classes)
        app = create_app(
            classifier,
            settings,
            name=name or classifier.info.config.name,
            engine=engine,
            tta=tta,
            temperature=temperature,
        )
        if not is_loopback(bound) and settings.token is None:
            print_notes([f"Whoever reaches port {port} may use this server; {TOKEN} sets a token."])

        def announce() -> None:
            count = f"{len(classifier.classes):,} classes"
            print(f"{url_of(bound)} serves {model} ({count}); Ctrl-C stops it.", flush=True)

        answered = run_server(app, bound, announce)
    print(f"Stopped after {answered:,} answered requests.", file=sys.stderr)


def read_token(file: str | None) -> str | None:
    """Return the token of a file or of the environment; None where neither is given.

    Raises:
        UserError: Both are given, or the token cannot be sent in a header.
    """
    given = os.environ.get(TOKEN)
    if file is None and given is None:
        return None
    if file is not None and given is not None:
        raise UserError(f"There are two tokens: unset {TOKEN}, or leave out --token-file.", 2)
    where = TOKEN if file is None else file
    if file is not None:
        try:
            given = Path(expand(file)).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(f"The token cannot be read from {file} ({reason}).") from error
    token = (given or "").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"The token of {where} must be ASCII characters without spaces.")
    return token
