"""Feedback of long operations to their caller: progress, and notes about the input that are no errors."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[int, int | None], None]
"""Called with the amount of work done and the total, which is None if it is unknown."""


class Note(UserWarning):
    """A note of the library; Python programs can filter it like any warning."""


def note(text: str) -> None:
    """Issue a note of one line; Python shows each text once, and commands write it to stderr."""
    warnings.warn(text, Note, stacklevel=3)


@contextmanager
def notes_to(log: Callable[[str], None]) -> Iterator[None]:
    """Pass the notes that are issued in a block to a function, each text once; other warnings are unaffected."""
    seen = set[str]()
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
            elif str(message) not in seen:
                seen.add(str(message))
                log(str(message))

        warnings.showwarning = show
        yield
