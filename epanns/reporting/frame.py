"""Run records as a pandas table, for analyses of one's own; pandas comes with the extra ``report``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.errors import ConfigError
from epanns.packages import install_command, is_installed
from epanns.records import RunRecord
from epanns.records import read_records as records_below
from epanns.reporting.rows import budget_of, label_of, latency_of

if TYPE_CHECKING:
    import pandas

_FIELDS = (
    *("trial_id", "experiment", "name", "model", "width", "criterion", "layers", "ratio", "budget", "recover"),
    *("finetune_iterations", "seed", "dataset", "protocol", "clip_seconds", "n_params", "param_bytes"),
    *("backbone_macs", "front_end_macs", "latency_ms", "param_reduction", "mac_reduction"),
)
_TYPES = {
    **dict.fromkeys(("ratio", "latency_ms"), "float64"),
    **dict.fromkeys(("finetune_iterations", "seed", "n_params", "param_bytes", "backbone_macs"), "Int64"),
}


def read_records(folder: Path | str, *folders: Path | str) -> "pandas.DataFrame":
    """Return the run records below folders as a table with one row per record, in the order of their paths.

    Columns of the configuration are ``trial_id``, ``experiment``, ``name`` (label; may be empty), ``model``, ``width``,
    ``criterion``, ``layers`` (joined by ``;``), ``ratio`` (fraction of channels removed), ``budget``, ``recover``,
    ``finetune_iterations``, ``seed``, ``dataset``, ``protocol`` and ``clip_seconds``.

    Columns of costs, after pruning, are ``n_params``, ``param_bytes``, ``backbone_macs`` and ``front_end_macs`` (for
    ``clip_seconds``), ``latency_ms`` (median; missing where it was not measured), ``param_reduction`` and
    ``mac_reduction`` (fractions removed of the unpruned network).

    Columns of scores are ``STAGE_SPLIT_SCORE``, such as ``finetuned_test_mAP``, ``STAGE_best_step``, and the ends of
    the intervals of the last stage by clip, ``SPLIT_SCORE_low`` and ``SPLIT_SCORE_high``. The others are
    ``plan_digest``, ``network`` (digest of the scored weights), ``device``, ``seconds``, and ``config.NAME`` for every
    setting of the resolved configuration by its dotted name. Values that a record lacks are missing.

    Args:
        folder: The ``--out`` of a sweep, of ``epanns evaluate`` or of ``epanns report``, or any folder above.
        folders: Further folders; a trial in several of them is one row.

    Raises:
        ConfigError: If pandas is not installed.
        DataError: If a folder has no record, or a record cannot be read.
    """
    if not is_installed("pandas"):
        raise ConfigError(f"epanns.read_records: needs pandas, which is not installed; {install_command('report')}")
    import pandas

    rows = [flat_record(record) for record in records_below(map(Path, (folder, *folders)))]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    ordered = [name for name in columns if not name.startswith("config.")]
    ordered += [name for name in columns if name.startswith("config.")]
    return pandas.DataFrame(rows, columns=ordered).astype(_TYPES)


def flat_record(record: RunRecord) -> dict[str, Any]:
    """Return a record as one row of the table of `read_records`, without the values that it lacks."""
    before, after = record.cost_before, record.cost_after
    derived = {
        "name": label_of(record),
        "layers": ";".join(record.layers),
        "budget": budget_of(record),
        "latency_ms": latency_of(after),
        "param_reduction": 1 - after["n_params"] / before["n_params"],
        "mac_reduction": 1 - after["backbone_macs"] / before["backbone_macs"],
        **{name: after.get(name) for name in ("n_params", "param_bytes", "backbone_macs", "front_end_macs")},
    }
    row = {name: derived[name] if name in derived else getattr(record, name) for name in _FIELDS}
    for stage in record.stages:
        for split, summary in stage.scores.items():
            row |= {f"{stage.name}_{split}_{score}": value for score, value in summary.items()}
        if stage.best_step is not None:
            row[f"{stage.name}_best_step"] = stage.best_step
    row |= _interval_ends(record.intervals)
    row |= {name: getattr(record, name) for name in ("plan_digest", "network", "device", "seconds")}
    return row | _flat(record.config, "config.")


def _interval_ends(intervals: Mapping[str, Any]) -> dict[str, Any]:
    """Return both ends of each interval by clip; other values of a hand-made record are left out."""
    found = dict[str, Any]()
    for split, given in intervals.items():
        by_clip = given.get("by_clip") if isinstance(given, Mapping) else None
        for score, ends in by_clip.items() if isinstance(by_clip, Mapping) else ():
            if isinstance(ends, list) and len(ends) == 2:
                found |= {f"{split}_{score}_low": ends[0], f"{split}_{score}_high": ends[1]}
    return found


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ";".join(map(str, value)) if isinstance(value, list) else value
    return flat
