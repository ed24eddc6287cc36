"""Make text from files safe: for a terminal, for a spreadsheet, and as part of a path."""

import json
import re
import unicodedata

from epanns.errors import EpannsError

LONGEST_NAME = 200  # characters of a part of a path
_PATH_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}")

# Control characters, format characters (bidi overrides, zero-width), line separators and lone surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters in ordinary text: soft hyphen, joiners of letters and emoji, number signs of Arabic and Syriac.
_ORDINARY = frozenset("\u00ad\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
_NUMBER = re.compile(r"[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan)")
# A spreadsheet reads text that begins so as a formula; the wide forms only in East Asian settings.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text with its control characters escaped: an escape character becomes ``\x1b``.

    Control characters, bidi overrides and other format characters, and lone surrogates (of file names that are not
    UTF-8) become ``\x1b``, ``\u202e``, ``\n``. Letters, marks and symbols are kept, and with
    `lines` line feeds and tabs.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if _is_kept(letter, lines) else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def is_printable(text: str) -> bool:
    """Return whether a name has one line and no hidden characters.

    Unlike `str.isprintable`, accepts the joiners in emoji and in words of Persian, Hindi or Sinhala.
    """
    return text.isprintable() or "".join(letter for letter in text if letter not in _ORDINARY).isprintable()


def printable_json(text: str) -> str:
    r"""Return a JSON text with the characters that `printable` escapes written as JSON escapes, ``\u001b``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _is_kept(letter, True) else json.dumps(letter)[1:-1] for letter in text)


def spreadsheet_cell(text: str) -> str:
    """Return the text of a CSV cell such that a spreadsheet does not read it as a formula.

    A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end, and is no number, gets an apostrophe in
    front.
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def is_path_name(value: object) -> bool:
    """Return whether a value can be one part of a path: ``[A-Za-z0-9._-]+``, neither ``.`` nor ``..``."""
    return isinstance(value, str) and _PATH_NAME.fullmatch(value) is not None and value not in (".", "..")


def path_name(value: object, what: str, error: type[EpannsError]) -> str:
    """Return a name from a file, which becomes one part of a path in its folder; `what` is the name of its field.

    Raises:
        EpannsError: Of class `error`, unless `is_path_name` holds.
    """
    if isinstance(value, str) and is_path_name(value):
        return value
    shown = repr(value[:60] if isinstance(value, str) else value)[:120]
    raise error(
        f"{what}={shown}: must be a name of 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ - and neither . nor "
        ".., because it becomes part of a path; rename it"
    )


def _is_kept(letter: str, lines: bool) -> bool:
    if letter in "\n\t":
        return lines
    return letter in _ORDINARY or unicodedata.category(letter) not in _HIDDEN
