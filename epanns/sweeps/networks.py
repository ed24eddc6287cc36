"""Which records scored the same network: a network that was scored under three seeds is one network, not three."""

from collections.abc import Iterable, Mapping

from epanns.atomic import sha256_of_json
from epanns.sweeps.records import RunRecord

# Criteria whose choice of channels does not depend on the seed; the others draw numbers or clips.
UNSEEDED_CRITERIA = frozenset({"l1", "l2", "bn", "opnorm", "opnorm_invariant", "centrality", "cosine", "fpgm"})
# Settings of a trial that do not change what such a criterion cuts.
_AFTER_CUT = frozenset({"seed", "recover", "recovery", "calibration_clips", "finetune", "teacher"})
_JOINED = ", then "  # between the criteria of a network that was pruned several times


def network_at(record: RunRecord, stage_name: str) -> str:
    """Return what identifies the network that a record scored at a stage.

    Records of one network have one value, whatever their seeds: the weights of the last stage by their sha256 where the
    record has it; else a base by its checkpoint or by all its settings, a network as it was cut by its base and all
    that the cut depends on, and a later one by the settings of the whole trial, seed included.
    """
    last = record.stages[-1].name if record.stages else ""
    if record.network and stage_name == last != "dense":
        return record.network
    config = dict(record.config)
    base = config if config.get("kind") == "base" else config.get("base")
    if not isinstance(base, Mapping):
        return _evaluated_network(record)
    if stage_name == "dense":  # the trials of a base score it too, and name it by its settings
        return sha256_of_json(base.get("checkpoint_sha256") or base)
    if stage_name == "pruned" and _is_unseeded(record.criterion):
        return sha256_of_json({name: config[name] for name in config if name not in _AFTER_CUT})
    later = ("finetune", "teacher") if stage_name in ("pruned", "recovered") else ()
    return sha256_of_json([{name: config[name] for name in config if name not in later}, record.seed])


def network_of(record: RunRecord) -> str:
    """Return what identifies the network of the last stage of a record."""
    return network_at(record, record.stages[-1].name if record.stages else "")


def count_networks(records: Iterable[RunRecord]) -> int:
    """Return the number of distinct networks that records scored last."""
    return len({network_of(record) for record in records})


def _evaluated_network(record: RunRecord) -> str:
    """Return what identifies a checkpoint that was scored by itself: its sha256, which stands behind its name."""
    name, at, sha256 = str(record.config.get("checkpoint", "")).rpartition("@")
    return sha256_of_json(sha256 if at and sha256 != "None" else [name or sha256, record.seed])


def _is_unseeded(criterion: str | None) -> bool:
    return criterion is not None and UNSEEDED_CRITERIA.issuperset(criterion.split(_JOINED))
