"""Settings of the server."""

from dataclasses import dataclass

from ...errors import UserError


@dataclass(frozen=True)
class ServeSettings:
    """Limits of the server and how it forms batches.

    Attributes:
        batch_size: Photos of the largest batch. Programs are compiled for it and for the powers of
            two below it.
        max_delay: Seconds that a photo waits at most for others that are being decoded, while
            nothing is computed.
        queue: Photos that are admitted and not answered yet; beyond it requests are refused with
            status 429.
        max_upload: Bytes of the body of one request.
        max_pixels: Pixels of one photo.
        timeout: Seconds for one request, from its headers to its answer.
        top_k: Classes in the answer for each photo, where the request does not say.
        token: Token that requests must bear; None asks for none.
    """

    batch_size: int = 16
    max_delay: float = 0.005
    queue: int = 256
    max_upload: int = 32 * 2**20
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    top_k: int = 5
    token: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_upload", "max_pixels", "timeout", "top_k"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0.", 2)
        if self.max_delay < 0:
            raise UserError(f"max_delay is {self.max_delay}; it must be 0 or more.", 2)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes of batches, ascending: powers of two, and the largest."""
        below = [1 << power for power in range(self.batch_size.bit_length())]
        return tuple(sorted({*below, self.batch_size}))

    @property
    def max_buffered(self) -> int:
        """Bytes of all bodies that are held at once."""
        return 8 * self.max_upload
