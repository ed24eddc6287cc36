"""Which records scored the same network: one network that was scored under three seeds is one network, not three."""

from collections.abc import Iterable, Mapping

from epanns.atomic import sha256_of_json
from epanns.records import RunRecord

# Criteria whose choice of channels does not depend on the seed; the others draw numbers or clips.
UNSEEDED_CRITERIA = frozenset({"l1", "l2", "bn", "opnorm", "opnorm_invariant", "centrality", "cosine", "fpgm"})
# Settings of a trial that do not change which channels such a criterion removes.
_AFTER_PRUNING = frozenset({"seed", "recover", "recovery", "calibration_clips", "finetune", "teacher"})
_JOINED = ", then "  # between the criteria of a network that was pruned several times


def network_at(record: RunRecord, stage_name: str) -> str:
    """Return a digest of the network that a record scored at a stage: equal for equal networks of any seed.

    The digest is that of the weights where the record holds it. Otherwise a base is identified by its checkpoint or all
    its settings, a pruned network by its base and all settings that decide which channels are removed, and a later
    network by the settings of the whole trial, seed included.
    """
    last = record.stages[-1].name if record.stages else ""
    if record.network and stage_name == last != "dense":
        return record.network
    config = dict(record.config)
    base = config if config.get("kind") == "base" else config.get("base")
    if not isinstance(base, Mapping):  # a checkpoint that was scored by itself
        name, at, sha256 = str(record.config.get("checkpoint", "")).rpartition("@")
        return sha256_of_json(sha256 if at and sha256 != "None" else [name or sha256, record.seed])
    if stage_name == "dense":  # the trials of a base score it too, and identify it by its settings
        return sha256_of_json(base.get("checkpoint_sha256") or base)
    is_unseeded = record.criterion is not None and UNSEEDED_CRITERIA.issuperset(record.criterion.split(_JOINED))
    if stage_name == "pruned" and is_unseeded:
        return sha256_of_json({name: config[name] for name in config if name not in _AFTER_PRUNING})
    later = ("finetune", "teacher") if stage_name in ("pruned", "recovered") else ()
    return sha256_of_json([{name: config[name] for name in config if name not in later}, record.seed])


def count_networks(records: Iterable[RunRecord]) -> int:
    """Return the number of distinct networks in the last stages of records."""
    return len({network_at(record, record.stages[-1].name if record.stages else "") for record in records})
