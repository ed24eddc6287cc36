"""Names that come from a file and become part of a path."""

import re

from epanns.errors import EpannsError

LONGEST = 200
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")
_SHOWN = 60


def is_path_name(value: object) -> bool:
    """Return whether a value may be one part of a path: ``[A-Za-z0-9._-]+``, neither ``.`` nor ``..``."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and value not in (".", "..")


def path_name(value: object, what: str, error: type[EpannsError]) -> str:
    """Return a name that may be one part of a path, or refuse it.

    Every name that a record, a pack, a manifest, a checkpoint or a TOML file gives is checked here, where the file is
    read, before it is joined to a path: it can then neither leave the folder nor hide one.

    Args:
        value: The name as the file gives it.
        what: Name of the field, for the message: ``result.json: trial_id``.
        error: Class of the error of that file.

    Raises:
        EpannsError: Of class `error`, if the value is no such name.
    """
    if isinstance(value, str) and is_path_name(value):
        return value
    shown = repr(value[:_SHOWN] if isinstance(value, str) else value)[: 2 * _SHOWN]
    raise error(
        f"{what}={shown}: must be a name of 1 to {LONGEST} of the characters A-Z a-z 0-9 . _ - and neither . nor .., "
        "because it becomes part of a path; rename it"
    )
