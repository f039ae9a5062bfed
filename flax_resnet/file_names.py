r"""File names in output files, which are UTF-8 although a name may hold any bytes.

Python represents a byte ``NN`` (hexadecimal) that is not UTF-8 by the character U+DCNN. In output
files it is written as the six characters ``\udcNN``; where a name itself holds such a sequence, its
backslash is written as ``\u005c``. So every written name stands for one name.
"""

import re

_ESCAPED = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


def escape(name: str) -> str:
    r"""Return a name as it is written to a file: ``b"caf\xe9.jpg"`` is ``caf\udce9.jpg``."""
    name = _ESCAPED.sub(r"\\u005cu\1", name)
    return name.encode("utf-8", "backslashreplace").decode()


def unescape(text: str) -> str:
    """Return the name that ``escape`` wrote, as Python has it; ``os.fsencode`` gives its bytes."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
