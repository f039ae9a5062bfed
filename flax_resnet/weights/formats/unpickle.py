"""A reader of pickles that builds tensors and containers, and imports and calls nothing.

It interprets the instructions of ``pickletools`` and looks names up in one table; an object of any
other class becomes a ``Foreign``, which only records what the pickle says about it. Time and memory
grow with the length of the pickle, whatever it claims: no instruction copies more than was read,
nothing recurses, and keys are values that hash at once and cannot be made to collide.

``pickle.Unpickler`` with ``find_class`` would import nothing either, but it cannot be bounded: one
instruction of six bytes (LONG_BINPUT) makes it allocate a memo of 64 GB, another (BINBYTES8) the
bytes that it claims before it reads them, keys that are tuples of tuples take 2**40 steps to hash,
and its extension codes return what the process has registered without asking ``find_class``.
"""

import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .pickled_names import (
    NAMES,
    Foreign,
    ForeignClass,
    Function,
    NestedFile,
    TensorPlan,
    Unreadable,
    as_key,
    damaged,
)

# A tensor takes some 35 instructions; the deepest published ResNet (1202 layers) with the two
# moments of Adam needs half a million.
MAX_INSTRUCTIONS = 2_000_000
MAX_INTEGER_BITS = 128  # the magic number of torch's older format has 80

Builder = Callable[[TensorPlan | NestedFile], object]
PersistentLoader = Callable[[object], object]


@dataclass
class _Machine:
    """State of the interpreter: the values that instructions change.

    Attributes:
        marks: Heights of the stack at the open MARKs.
        start: Position of the pickle in the file.
        copied: Elements and bytes that were copied so far, out of values that may stay in the memo.
    """

    file: BinaryIO
    build: Builder
    load_persistent: PersistentLoader
    start: int
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    copied: int = 0


def read_pickle(file: BinaryIO, build: Builder, load_persistent: PersistentLoader) -> Any:
    """Interpret the pickle that begins at the position of ``file``, and leave it right after.

    Args:
        file: Its ``read`` must not allocate more than the file has left, as for ``io.BytesIO`` and
            ``mmap.mmap``.
        build: Function that checks the plan of a tensor and creates it, or reads the storage of a
            nested file.
        load_persistent: Function that checks a persistent id, which may be any value, and
            creates a storage.

    Returns:
        dict (also for OrderedDict and Counter; their attributes are dropped), list, tuple (also for
        torch.Size), set, frozenset, str (also for torch.device), bytes, bytearray, numbers, bool,
        None, NumPy dtypes, results of the two functions, and ``Foreign`` and ``ForeignClass`` for
        all else. Structures may be deep or cyclic.

    Raises:
        Unreadable: The pickle is damaged, out of bounds, or has an instruction that is not in the
            table.
    """
    machine = _Machine(file, build, load_persistent, file.tell())
    for count, (name, argument) in enumerate(_instructions(file)):
        if count == MAX_INSTRUCTIONS:
            raise Unreadable(
                f"has more than {MAX_INSTRUCTIONS} pickle instructions, far more than a model "
                "needs: save the state_dict() alone"
            )
        if name == "STOP":
            break
        if name not in _INSTRUCTIONS:
            raise Unreadable(
                f"uses the pickle instruction {name}, which no model needs: if you trust its "
                "origin, load it in PyTorch and save the state_dict() alone"
            )
        _INSTRUCTIONS[name](machine, argument)
    return _pop(machine)


def _instructions(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except (ValueError, struct.error, Warning) as error:  # a Warning where those are made errors
        raise damaged("its pickle is cut short or garbled") from error


def _pop(machine: _Machine) -> Any:
    _top(machine)
    return machine.stack.pop()


def _top(machine: _Machine) -> Any:
    if len(machine.stack) <= (machine.marks[-1] if machine.marks else 0):
        raise damaged("its pickle takes more values than it gave")
    return machine.stack[-1]


def _pop_mark(machine: _Machine) -> list[Any]:
    if not machine.marks:
        raise damaged("its pickle takes more values than it gave")
    height = machine.marks.pop()
    items = machine.stack[height:]
    del machine.stack[height:]
    return items


def _push(machine: _Machine, value: object) -> None:
    machine.stack.append(value)


def _push_int(machine: _Machine, value: int) -> None:
    if value.bit_length() > MAX_INTEGER_BITS:
        raise Unreadable(f"holds an integer of more than {MAX_INTEGER_BITS} bits, as no model does")
    machine.stack.append(value)


def _constant(value: object) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _nothing(machine: _Machine, argument: object) -> None:
    pass


def _mark(machine: _Machine, _: None) -> None:
    machine.marks.append(len(machine.stack))


def _discard(machine: _Machine, _: None) -> None:
    # Python's writer also takes marks away with POP.
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        _pop(machine)


def _discard_to_mark(machine: _Machine, _: None) -> None:
    _pop_mark(machine)


def _put(machine: _Machine, index: int | None) -> None:
    machine.memo[len(machine.memo) if index is None else index] = _top(machine)


def _get(machine: _Machine, index: int) -> None:
    if index not in machine.memo:
        raise damaged("its pickle recalls a value that it never gave")
    machine.stack.append(machine.memo[index])


def _tuple_of(length: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, _: None) -> None:
        items = [_pop(machine) for _ in range(length)]
        machine.stack.append(tuple(reversed(items)))

    return make


def _append(machine: _Machine, _: None) -> None:
    value = _pop(machine)
    _items(machine, list).append(value)


def _appends(machine: _Machine, _: None) -> None:
    values = _pop_mark(machine)
    _items(machine, list).extend(values)


def _set_item(machine: _Machine, _: None) -> None:
    value, key = _pop(machine), _pop(machine)
    _entries(machine)[as_key(key)] = value


def _set_items(machine: _Machine, _: None) -> None:
    items = _pop_mark(machine)
    _fill(_entries(machine), items)


def _add_items(machine: _Machine, _: None) -> None:
    values = _pop_mark(machine)
    if type(_top(machine)) is Foreign:
        _items(machine, list).extend(values)
    else:
        _target(machine, set).update(map(as_key, values))


def _dict(machine: _Machine, _: None) -> None:
    machine.stack.append(_fill({}, _pop_mark(machine)))


def _target(machine: _Machine, kind: type) -> Any:
    target = _top(machine)
    if type(target) is not kind:
        raise damaged(f"its pickle fills a {kind.__name__} that is none")
    return target


def _items(machine: _Machine, kind: type) -> Any:
    top = _top(machine)
    if type(top) is not Foreign:
        return _target(machine, kind)
    top.items = [] if top.items is None else top.items
    return top.items


def _entries(machine: _Machine) -> dict[Any, Any]:
    top = _top(machine)
    if type(top) is not Foreign:
        return _target(machine, dict)
    top.entries = {} if top.entries is None else top.entries
    return top.entries


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise damaged("its pickle has a key without a value")
    target.update(zip(map(as_key, items[::2]), items[1::2], strict=True))
    return target


def _global(machine: _Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    _push_named(machine, module, name)


def _stack_global(machine: _Machine, _: None) -> None:
    name, module = _pop(machine), _pop(machine)
    if not (type(name) is str and type(module) is str):
        raise damaged("its pickle has a name that is not text")
    _push_named(machine, module, name)


def _push_named(machine: _Machine, module: str, name: str) -> None:
    known = (module, name) in NAMES
    machine.stack.append(NAMES[module, name] if known else ForeignClass(module, name))


def _reduce(machine: _Machine, _: None) -> None:
    arguments, function = _pop(machine), _pop(machine)
    machine.stack.append(_call(machine, function, arguments))


def _call(machine: _Machine, function: Any, arguments: Any) -> object:
    if not (isinstance(function, _CALLABLE) and type(arguments) is tuple):
        raise damaged("its pickle calls what is no function")
    if not isinstance(function, Function):
        return Foreign(function, arguments)
    if not function.fewest <= len(arguments) <= function.most:
        raise damaged("its pickle calls a function with a wrong number of arguments")
    if function.copies:
        # A value takes at least a byte of the pickle per element, and is written before its copy.
        machine.copied += sum(len(value) for value in arguments if type(value) in _SIZED)
        if machine.copied > machine.file.tell() - machine.start:
            raise Unreadable("copies its values over and over: it is made to fill the memory")
    made = function.call(*arguments)
    return machine.build(made) if isinstance(made, TensorPlan | NestedFile) else made


def _new(machine: _Machine, _: None) -> None:
    arguments, kind = _pop(machine), _pop(machine)
    machine.stack.append(_instance(machine, kind, arguments))


def _new_with_keywords(machine: _Machine, _: None) -> None:
    keywords, arguments, kind = (_pop(machine) for _ in range(3))
    if type(keywords) is not dict or type(arguments) is not tuple:
        raise damaged("its pickle calls what is no function")
    machine.stack.append(_instance(machine, kind, (*arguments, keywords)))


def _object(machine: _Machine, _: None) -> None:
    kind, *arguments = _pop_mark(machine) or [None]
    machine.stack.append(_instance(machine, kind, tuple(arguments)))


def _inst(machine: _Machine, names: str) -> None:
    arguments = tuple(_pop_mark(machine))
    _global(machine, names)
    machine.stack.append(_instance(machine, _pop(machine), arguments))


def _instance(machine: _Machine, kind: Any, arguments: Any) -> object:
    # Of the table's classes, such as OrderedDict, the empty instance is made; it is filled later.
    return _call(machine, kind, () if isinstance(kind, Function) else arguments)


def _build(machine: _Machine, _: None) -> None:
    state = _pop(machine)
    top = _top(machine)
    if type(top) is Foreign:
        top.state = state
    else:
        # Attributes of an OrderedDict: `_metadata`, which state_dict() adds, is not needed.
        _target(machine, dict)


def _persistent(machine: _Machine, _: None) -> None:
    machine.stack.append(machine.load_persistent(_pop(machine)))


def _protocol_0_tensor(machine: _Machine, _: str) -> None:
    raise Unreadable(
        "was saved with pickle_protocol=0, which cannot hold tensors: save it with torch's default"
    )


_SIZED = (str, bytes, list, tuple, dict)
_CALLABLE = (Function, ForeignClass, Foreign)

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _push_int),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push),  # Python 2's text
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "LIST": lambda machine, _: machine.stack.append(_pop_mark(machine)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(_pop_mark(machine))),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": _dict,
    "FROZENSET": lambda machine, _: machine.stack.append(
        frozenset(map(as_key, _pop_mark(machine)))
    ),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "ADDITEMS": _add_items,
    "MARK": _mark,
    "POP": _discard,
    "POP_MARK": _discard_to_mark,
    "DUP": lambda machine, _: machine.stack.append(_top(machine)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _new,
    "NEWOBJ_EX": _new_with_keywords,
    "OBJ": _object,
    "INST": _inst,
    "BUILD": _build,
    "BINPERSID": _persistent,
    "PERSID": _protocol_0_tensor,
}
