"""Text from files, made safe for a terminal and for a spreadsheet."""

import re
import unicodedata

# Control characters, format characters (bidi overrides, zero-width), line separators and lone surrogates.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Format characters of ordinary text: soft hyphen, joiners of letters and emoji, number signs of Arabic and Syriac.
_ORDINARY = frozenset("\u00ad\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_NUMBER = re.compile(r"[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|nan)")
# A spreadsheet takes what begins so for a formula; the wide forms do so in East Asian settings.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text whose control characters are visible: an escape character becomes ``\x1b``.

    Control characters, bidi overrides and other format characters, and lone surrogates (of file names that are no
    UTF-8) become ``\x1b``, ``\u202e``, ``\n``. Letters, marks and symbols stay.

    Args:
        text: Any text.
        lines: Whether line feeds and tabs stay, for text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _stays(letter, lines) else _SHORT.get(letter) or _escaped(letter) for letter in text)


def is_printable(text: str) -> bool:
    """Return whether a name can be printed as it is: on one line, without hidden characters.

    The joiners within emoji and within words of Persian, Hindi or Sinhala are letters of such a name, where
    `str.isprintable` refuses them.
    """
    return text.isprintable() or "".join(letter for letter in text if letter not in _ORDINARY).isprintable()


def printable_json(text: str) -> str:
    r"""Return a JSON text in which the characters that `printable` escapes stand as JSON's own ``\u001b``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _stays(letter, True) else _json_escaped(letter) for letter in text)


def spreadsheet_cell(text: str) -> str:
    """Return a cell of a CSV made for people that no spreadsheet takes for a formula.

    A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end gets an apostrophe in front, numbers do not.
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _stays(letter: str, lines: bool) -> bool:
    if letter in "\n\t":
        return lines
    return letter in _ORDINARY or unicodedata.category(letter) not in _HIDDEN


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(letter: str) -> str:
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
