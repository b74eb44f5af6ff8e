"""Steps that change a live model: all of them are kept, or all are undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from keras_grow.backend import make_unusable
from keras_grow.core import keras_private


@dataclass(frozen=True)
class Transaction:
    """What the steps so far have noted.

    Attributes:
        undo: What is called to undo them, last first. How to undo a step is noted before it is
            taken: an interrupt can come between any two.
        replaced: What variables held before. When all is kept, nobody is to use that any more.
    """

    undo: ExitStack = field(default_factory=ExitStack)
    replaced: list[keras_private.Held] = field(default_factory=list)

    def hold(self, variable) -> None:
        """Notes what a variable holds, which is about to be replaced."""
        held = keras_private.hold(variable)
        self.replaced.append(held)
        self.undo.callback(keras_private.put_back, held)


@contextmanager
def transaction() -> Iterator[Transaction]:
    """Undoes all steps of the body if anything is raised in it, an interrupt included.

    What says that a model is unchanged goes inside: once the body has ended, it is changed.
    """
    steps = Transaction()
    with steps.undo:
        yield steps
        steps.undo.pop_all()
    for held in steps.replaced:
        make_unusable(held.value)
