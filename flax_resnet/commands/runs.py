"""Commands that look after a run's folder: verify, checkpoints, debug-step."""

import time

from ..errors import UserError
from ..storage import is_remote, locate
from .grammar import command


@command
def verify_command(run: str, /, *, replay: int = 0) -> None:
    """Read every file of a run and compare it with its checksum; compute steps again.

    Args:
        run: The run's folder.
        replay: Also compute up to this many steps again, from a checkpoint or from the start, and
            compare the digest of the state with that in the history.
    """
    from rich.console import Console

    from ..training.replay import use_algorithms_of
    from ..training.verify import verify_by_replay, verify_files
    from ..weights import local_run

    folder = local_run(locate(run), checkpoints=True)
    if replay:
        use_algorithms_of(folder)
    wrong = 0
    for is_right, text in verify_files(folder):
        wrong += not is_right
        text = text.replace(str(folder), run) if is_remote(locate(run)) else text
        print(text if is_right else f"WRONG: {text}")
    if wrong:
        noun = "1 file is" if wrong == 1 else f"{wrong} files are"
        raise UserError(f"{noun} not as the run wrote them, see above.")
    if replay:
        print(verify_by_replay(folder, replay, Console(stderr=True, highlight=False)))


@command
def debug_step_command(folder: str, /) -> None:
    """Compute a step again whose loss or gradient was not finite.

    Args:
        folder: The folder debug/step-N of a run.
    """
    from rich.console import Console

    from ..storage import mirror
    from ..training.debugging import debug_step
    from ..weights import is_small

    path = locate(folder)
    local = path
    if is_remote(path):
        kept = f"debug/{path.name}/"
        run = mirror(path.parents[1], lambda name: is_small(name) or name.startswith(kept))
        local = run / kept
    for line in debug_step(local, Console(stderr=True, highlight=False)):
        print(line)


@command
def checkpoints_command(run: str, /, *, verify: bool = False, prune: bool = False) -> None:
    """List the checkpoints of a run; read them, or remove what no run needs.

    Args:
        run: The run's folder.
        verify: Read each checkpoint and compare its checksums.
        prune: Remove damaged checkpoints, the remains of interrupted saves, and all but the latest
            and the best.
    """
    from ..training.checkpoint_list import list_checkpoints, prune_checkpoints

    folder = locate(run)
    listed = list_checkpoints(folder, verify=verify or prune)
    if not listed:
        print(f"{folder} holds no checkpoints.")
    for one in listed:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.saved))
        score = "" if one.score is None else f"  score {one.score:.4f}"
        marks = "".join(f"  {mark}" for mark in one.marks)
        print(f"{one.name:>12}  {when}  {one.size / 1e6:8,.1f} MB{score}{marks}")
    if prune:
        removed = prune_checkpoints(folder, listed)
        print(f"Removed {', '.join(removed)}." if removed else "There was nothing to remove.")
    elif any("damaged" in mark for one in listed for mark in one.marks):
        raise UserError("A checkpoint is damaged: --prune removes it.")
