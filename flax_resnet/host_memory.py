"""The memory that this process may use on its machine."""

import os
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def host_limit() -> tuple[int | None, str]:
    """Return the bytes of memory that this process may use, and whose limit it is.

    It is the container's, or that of the machine, on Linux with its swap space. None stands for an
    unknown one.
    """
    machine = "this machine"
    if sys.platform == "win32":
        return None, machine
    if sys.platform != "linux":
        try:
            pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None, machine
        return (pages * size if min(pages, size) > 0 else None), machine
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limit = 1024 * sum(int(fields[name].split()[0]) for name in ("MemTotal", "SwapTotal"))
        container = container_limit(Path("/proc/self/cgroup").read_text(), _CGROUPS)
    except OSError:  # a sandbox without these files
        return None, machine
    if container is not None and container < limit:
        return container, "this container"
    return limit, machine


def container_limit(groups: str, root: Path) -> int | None:
    """Return the least limit of the control groups that a process is in, in bytes.

    Args:
        groups: The text of ``/proc/self/cgroup``.
        root: The folder of the control groups, of version 2, or of 1 with its folder ``memory``.
    """
    limits = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = top / path.lstrip("/")
        # In a container the path may be that outside of it; its own limit is then at the top.
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top):
                try:
                    limits.append(int((folder / name).read_text()))
                except (OSError, ValueError):  # absent, or "max"
                    continue
    return min(limits, default=None)
