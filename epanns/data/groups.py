"""Which clips belong together: slices of one recording, sounds of one speaker or one place.

Clips of one group are more alike than others. A validation set that shares groups with the training set, and an
interval that takes the clips of a group for independent ones, both look better than they are.
"""

import re
from collections.abc import Sequence

from epanns.errors import ConfigError, DataError


def compile_group_pattern(pattern: str) -> re.Pattern[str]:
    """Return a regular expression with exactly one capturing group, which gives the name of a clip's group.

    Raises:
        ConfigError: If it is no regular expression, or has no or several capturing groups.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"group pattern {pattern!r}: is no regular expression ({error})") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"group pattern {pattern!r}: has {compiled.groups} capturing groups, must have exactly one, around the "
            "name of the group, such as '^[0-9]-([0-9]+)-' for the recordings of ESC-50; write others as (?:...)"
        )
    return compiled


def groups_by_pattern(pattern: str, clip_ids: Sequence[str]) -> tuple[list[str], str]:
    """Return the name of each clip's group, and where it was found: ``file name`` or ``clip id``.

    A clip's id is its path as the data set lists it. The pattern is searched in the last part of the id, the file
    name; if that fails for any clip, in the whole id of every clip.

    Args:
        pattern: Regular expression with one capturing group.
        clip_ids: Ids of the clips.

    Raises:
        ConfigError: If the pattern is not one that `compile_group_pattern` takes.
        DataError: If there is a clip without a group under both readings; clips are counted, the first is named.
    """
    compiled = compile_group_pattern(pattern)
    by_name = [_group_of(compiled, clip_id[clip_id.rfind("/") + 1 :]) for clip_id in clip_ids]
    if None not in by_name:
        return [group for group in by_name if group], "file name"
    by_id = [_group_of(compiled, clip_id) for clip_id in clip_ids]
    if None not in by_id:
        return [group for group in by_id if group], "clip id"
    best = max(by_name, by_id, key=lambda groups: len(groups) - groups.count(None))
    first = clip_ids[best.index(None)]
    raise DataError(
        f"group pattern {pattern!r}: finds no group for {best.count(None)} of {len(clip_ids)} clips, first {first!r}; "
        "write one that fits every file name or every clip id"
    )


def _group_of(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] or None if match else None
