"""Pickles as data: a machine that knows numbers, text, bytes and containers, and no Python objects.

A pickle is a program: GLOBAL names anything importable, REDUCE calls it. Here GLOBAL gives a `Name`, two strings,
if it is on the allow-list of `names`, and REDUCE, NEWOBJ and BUILD run that name's stand-in, which returns plain
data. Nothing is imported, so nothing that a file carries can run. Opcodes that no writer of weights emits are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 5_000_000  # opcodes; a full training checkpoint has some ten thousand
MAX_INTEGER_BYTES = 64
KEY_TYPES = (str, int, float, bool, bytes, type(None))


class Refused(Exception):
    """Why a file is not taken, as the phrase behind its name: "which ..." or "a ..."."""


@dataclass(frozen=True)
class Name:
    """What GLOBAL names; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """An object as its class's name and its state."""

    def __init__(self, kind: str, state: Any = None) -> None:
        self.kind, self.state = kind, state

    def build(self, state: Any) -> None:
        """What BUILD would have given to __setstate__."""
        self.state = state


StandIn = Callable[..., Any]  # the arguments of REDUCE or NEWOBJ -> data
StandIns = Callable[[Name], "StandIn | None"]  # None: the name is not allowed
Persistent = Callable[[Any], Any]  # what a persistent id stands for
_MARK = object()


def read_pickle(data: memoryview, stand_ins: StandIns, persistent: Persistent | None = None,
                start: int = 0) -> tuple[Any, int]:  # fmt: skip
    """The object of the pickle at `start`, and where it ends. Raises Refused for anything out of the ordinary."""
    machine = _Machine(data, stand_ins, persistent, start)
    try:
        return machine.run(), machine.place
    except (IndexError, struct.error, UnicodeError, TypeError, ValueError, KeyError, OverflowError) as reason:
        raise Refused(f"a pickle that is damaged or cut short ({type(reason).__name__} at byte {machine.place})") from (
            reason
        )


class _Machine:
    """The stack, the memo and the place in the data."""

    def __init__(self, data: memoryview, stand_ins: StandIns, persistent: Persistent | None, start: int) -> None:
        self.data, self.place, self.steps = data, start, 0
        self.stand_ins, self.persistent = stand_ins, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.take(1)[0]
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise Refused(f"a pickle of more than {MAX_STEPS} steps")
            if code == 0x2E:  # STOP
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise Refused(f"a pickle with the opcode 0x{code:02x}, which no weights need")
            step(self)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        end = self.place + size
        if size < 0 or end > len(self.data):
            raise Refused("a pickle that is cut short")
        found = self.data[self.place : end]
        self.place = end
        return found

    def number(self, form: str) -> Any:
        """One number in struct's notation."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, size: int) -> str:
        return str(self.take(size), "utf-8", "surrogatepass")

    def line(self) -> str:
        """Text up to the next line feed."""
        window = bytes(self.data[self.place : self.place + 1024])
        end = window.index(b"\n")
        self.take(end + 1)
        return window[:end].decode("utf-8")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise Refused("a pickle whose stack does not fit")
        return value

    def pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise Refused("a pickle whose stack does not fit")

    def remember(self, index: int) -> None:
        if index > self.steps:
            raise Refused(f"a pickle with the memo index {index} after {self.steps} steps")
        self.memo[index] = self.stack[-1]

    def global_name(self, module: str, name: str) -> None:
        found = Name(module, name)
        if self.stand_ins(found) is None:
            raise Refused(f"a pickle that asks for {str(found)[:80]!r}")
        self.push(found)

    def call(self, arguments: Any) -> None:
        """Replace the name on the stack by what its stand-in makes of the arguments."""
        name = self.pop()
        stand_in = self.stand_ins(name) if isinstance(name, Name) else None
        if stand_in is None or not isinstance(arguments, tuple):
            raise Refused("a pickle that calls something else than a known name")
        self.push(stand_in(*arguments))

    def set_items(self, target: Any, pairs: list[Any]) -> None:
        if not isinstance(target, dict) or len(pairs) % 2:
            raise Refused("a pickle that sets items of something else than a mapping")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, KEY_TYPES):  # no tuples: hashing nested ones recurses in C
                raise Refused("a pickle with a mapping whose keys are not plain")
            target[key] = value


def _extend(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise Refused("a pickle that appends to something else than a list")
    target.extend(values)


def _append(machine: _Machine) -> None:
    value = machine.pop()
    _extend(machine, [value])


def _appends(machine: _Machine) -> None:
    _extend(machine, machine.pop_to_mark())


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
    pairs = machine.pop_to_mark()
    machine.set_items(machine.stack[-1], pairs)


def _dict(machine: _Machine) -> None:
    pairs = machine.pop_to_mark()
    machine.push({})
    machine.set_items(machine.stack[-1], pairs)


def _set(machine: _Machine) -> None:
    """Sets are kept as lists: their members are of no use here."""
    machine.push([])


def _add_items(machine: _Machine) -> None:
    _extend(machine, machine.pop_to_mark())


def _reduce(machine: _Machine) -> None:
    machine.call(machine.pop())


def _new_object_ex(machine: _Machine) -> None:
    named, arguments = machine.pop(), machine.pop()
    if named != {}:
        raise Refused("a pickle with named arguments")
    machine.call(arguments)


def _build(machine: _Machine) -> None:
    state = machine.pop()
    target = machine.stack[-1]
    if isinstance(target, Record):
        target.build(state)
    elif not isinstance(target, dict):  # an OrderedDict's attributes, such as _metadata, are dropped
        raise Refused("a pickle that gives a state to something without one")


def _persistent(machine: _Machine) -> None:
    identity = machine.pop()
    if machine.persistent is None:
        raise Refused("a pickle with persistent ids outside torch's own format")
    machine.push(machine.persistent(identity))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise Refused("a pickle with a name that is no text")
    machine.global_name(module, name)


def _recall(index: int, machine: _Machine) -> None:
    machine.push(machine.memo[index])


def _tuple(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        values = tuple(machine.pop() for _ in range(count))
        machine.push(values[::-1])

    return step


def _integer(form: str) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        size = machine.number(form)
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise Refused(f"a pickle with an integer of {size} bytes")
        machine.push(int.from_bytes(machine.take(size), "little", signed=True))

    return step


_STEPS: Mapping[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: a hint
    ord("("): lambda m: m.push(_MARK),
    ord("0"): lambda m: m.stack.pop(),  # POP, also of a mark
    ord("1"): lambda m: m.pop_to_mark(),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: _integer("<B"),  # LONG1
    0x8B: _integer("<i"),  # LONG4
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("X"): lambda m: m.push(m.text(m.number("<I"))),
    0x8C: lambda m: m.push(m.text(m.number("<B"))),
    0x8D: lambda m: m.push(m.text(m.number("<Q"))),
    ord("T"): lambda m: m.push(str(m.take(m.number("<i")), "latin-1")),  # BINSTRING of Python 2
    ord("U"): lambda m: m.push(str(m.take(m.number("<B")), "latin-1")),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),  # bytes stay views of the file
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),  # BYTEARRAY8
    ord("]"): lambda m: m.push([]),
    ord("a"): _append,
    ord("e"): _appends,
    ord("l"): lambda m: m.push(m.pop_to_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): _dict,
    ord("s"): _set_item,
    ord("u"): _set_items,
    0x8F: _set,
    0x90: _add_items,
    0x91: lambda m: m.push(m.pop_to_mark()),  # FROZENSET
    ord("q"): lambda m: m.remember(m.number("<B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: _recall(m.number("<B"), m),
    ord("j"): lambda m: _recall(m.number("<I"), m),
    ord("c"): lambda m: m.global_name(m.line(), m.line()),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _reduce,  # NEWOBJ: a class and its arguments
    0x92: _new_object_ex,
    ord("b"): _build,
    ord("Q"): _persistent,
}
