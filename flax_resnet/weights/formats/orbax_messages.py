"""What orbax prints besides the errors that it raises."""

import logging
import sys


def hide_further_failures() -> None:
    """Hide what Python prints of the other arrays when one fails; a second call changes nothing.

    Orbax writes or reads all arrays at once. At the first that fails it raises that error and
    closes its event loop. Then tensorstore reports the end of each array that it had not done with
    to the closed loop, and nobody waits for those that fail too: for one failed save Python prints
    a hundred tracebacks "Event loop is closed" and "Task exception was never retrieved"
    (orbax-checkpoint 0.11.28 to 0.12.8).
    """
    show = sys.unraisablehook
    if not getattr(show, "hides_closed_loops", False):

        def show_others(unraisable: "sys.UnraisableHookArgs") -> None:
            is_closed_loop = str(unraisable.exc_value) == "Event loop is closed"
            if not (is_closed_loop and unraisable.object is None):  # else it is not tensorstore's
                show(unraisable)

        show_others.hides_closed_loops = True  # type: ignore[attr-defined]
        sys.unraisablehook = show_others
    logging.getLogger("asyncio").addFilter(_is_other_record)  # once, however often it is added


def hide_saves_without_score() -> None:
    """Hide orbax's warning of a checkpoint without a score, which each between evaluations is; a
    second call changes nothing."""
    logging.getLogger("absl").addFilter(_is_other_warning)


def _is_other_warning(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Requested `tracked_metric`")


def _is_other_record(record: logging.LogRecord) -> bool:
    """Whether a record of asyncio is anything but the error of an array that nobody waits for."""
    error = record.exc_info[1] if record.exc_info else None
    return not (
        "exception was never retrieved" in record.getMessage()
        and isinstance(error, ValueError)
        and any(f"Error {what}" in str(error) for what in ("writing", "reading", "opening"))
    )
