"""The state of the interpreter while it runs: stack, marks, memo, names, and an estimate of the memory they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ckptconv.containers.inert import Global, Node
from ckptconv.containers.policy import Refused, is_silent, may_be_called
from ckptconv.containers.reading import Reading
from ckptconv.errors import Damaged, Unsafe, Unsupported
from ckptconv.text import printable

PICKLE_LIMIT = 64 << 20  # bytes of one pickle; 50,000 tensors take 7 MB
DEPTH_LIMIT = 20_000  # open MARKs

Persist = Callable[[Node], Node]
Rebuild = Callable[[tuple[Node, ...]], Node]
Handler = Callable[["Machine", int], int]


class Truncated(Damaged):
    """The pickle goes on after the bytes that were given."""


class BadView(Exception):
    """A tensor contradicts its storage; the text goes on after "the tensor after key 'x' "."""


class Machine:
    """State of the interpreter while it runs one pickle.

    spent: an estimate of the bytes that the nodes take; instructions that cost time only add to it as well.
    """

    __slots__ = (
        *("data", "end", "marks", "memo", "names", "persist", "reading", "rebuild", "size", "spent", "stack", "where"),
    )

    def __init__(
        self, data: bytes, where: str, persist: Persist, rebuild: Mapping[str, Rebuild], reading: Reading
    ) -> None:
        self.data = data
        self.size = len(data)
        self.where = where
        self.stack: list[Node] = []
        self.marks: list[list[Node]] = []
        self.memo: dict[int, Node] = {}
        self.spent = len(data)
        self.end = -1
        self.names: dict[tuple[str, str], Global] = {}
        self.persist = persist
        self.rebuild = rebuild
        self.reading = reading

    def take(self, start: int, count: int) -> bytes:
        """`count` bytes of an argument."""
        end = start + count
        if end > self.size:
            raise self.truncated()
        self.reserve(count + 64)
        return self.data[start:end]

    def reserve(self, count: int) -> None:
        """Counts memory that is about to be taken. Raises Unsafe if there is no more."""
        self.spent += count
        if self.spent > self.reading.memory:
            raise self.refuse("asks for more memory than its contents need")

    def pop_mark(self) -> list[Node]:
        """What was pushed since the last MARK."""
        if not self.marks:
            raise self.damaged("ends a group that was never begun")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mention(self, module: str, name: str) -> Global:
        """The Global of that name, one object per name. Raises Unsafe if a checkpoint has no business with it; names
        that `rebuild` knows may be there all the same, for it to look at what they are called with."""
        found = self.names.get((module, name))
        if found is None:
            try:
                silent = is_silent(module, name)
                callable = may_be_called(module, name) or self.reading.allow_unknown
            except Refused as reason:
                if f"{module}.{name}" not in self.rebuild:
                    raise self.refuse(f"names {printable(f'{module}.{name}')}, {reason}") from None
                silent, callable = True, False
            found = self.names[module, name] = Global(module, name, silent, callable)
            self.spent += 800  # half of it for the time that judging it takes; models name a dozen
        return found

    def check_memory(self) -> None:
        """Raises Unsafe if the nodes take too much memory, or lie too deep."""
        pending = 9 * (len(self.stack) + sum(map(len, self.marks))) + 120 * len(self.memo)
        if self.spent + pending > self.reading.memory or len(self.marks) > DEPTH_LIMIT:
            raise self.refuse("asks for more memory than its contents need")

    def count_steps(self, count: int) -> None:
        """Raises Unsafe if the checkpoint's pickles have more instructions than any model needs."""
        if self.reading.steps < 0:
            raise self.refuse("has more instructions than any model needs")
        self.reading.steps -= min(count, self.size)

    def near(self) -> str:
        """The last text on the stack: while a state dict's value is being built, its key."""
        for group in (self.stack, *reversed(self.marks)):
            for node in reversed(group):
                if type(node) is str:
                    return f"the tensor after key '{printable(node)}'"
        return "a tensor"

    def damaged(self, what: str) -> Damaged:
        """The error for a pickle that contradicts itself."""
        return Damaged(f"{self.where} is damaged: its pickle {what}")

    def truncated(self) -> Truncated:
        """The error for a pickle that isn't all there."""
        return Truncated(f"{self.where} is truncated: its pickle ends in the middle of an instruction")

    def refuse(self, what: str) -> Unsafe:
        """The error for a pickle that was made to do harm."""
        return Unsafe(f"{self.where} is refused as unsafe: its pickle {what}")

    def unsupported(self, what: str) -> Unsupported:
        """The error for a pickle of a kind that isn't read."""
        return Unsupported(f"{self.where} is not supported: its pickle {what}")
