"""Values of every type that TOML, JSON or a caller can give in place of a setting."""

import datetime
import math

from hypothesis import strategies as st

# Values that raised an unexpected exception in an earlier version, and similar values.
SPECIAL = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 2, 10**18, 2**63, -(2**63), 10**400),
        *(0.0, -0.0, 0.5, -0.5, 1.0, 1e308, 1e-320, math.nan, math.inf, -math.inf),
        *(
            "",
            " ",
            "a",
            "\0",
            "a\0b",
            "x" * 5000,
            "\x1b[31m",
            "\u202e",
            "é",
            "none",
            "0.25",
            "macs 0.25",
            "../..",
            "\n",
        ),
        *([], [[]], [[[]]], {}, [{}], {"": {}}, {"a": 1}, [0], ["a"], [1.5], [True], [None], ["a", 1], (), ("a",)),
        *(datetime.date(1979, 5, 27), datetime.time(7, 32), datetime.datetime(1979, 5, 27, tzinfo=datetime.UTC)),
    ]
)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.datetimes()
    | SPECIAL
)

ANY_VALUE = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
