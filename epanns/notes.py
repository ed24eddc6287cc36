"""Notes: facts about an input that a user should read, which stop nothing."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


class Note(UserWarning):
    """A note of the library; Python programs filter it like any warning."""


def note(text: str) -> None:
    """Give a note of one line; Python shows each text once, and commands write it to stderr."""
    warnings.warn(text, Note, stacklevel=3)


@contextmanager
def notes_to(log: Callable[[str], None]) -> Iterator[None]:
    """Pass each note that is given inside the block to a function, once for each text; other warnings stay."""
    told = set[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        show_others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, Note):
                show_others(message, category, filename, lineno, file, line)
            elif str(message) not in told:
                told.add(str(message))
                log(str(message))

        warnings.showwarning = show
        yield
