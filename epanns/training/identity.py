"""What makes two training runs the same run."""

import json
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.data.dataset import PackDataset
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.training.config import TrainingConfig
from epanns.training.teacher import sha256_of
from epanns.training.validation import Validation

# Keys that tell what a network is beside the file it was read from; a recipe has it in its steps.
OF_NETWORK = ("since", "since_plan_sha256", "weights_sha256")

_MEASURED = ("errors", "held_out", "best_step")  # of a recovery: they may differ in the last digit when it is repeated


def identity_of(
    model: Tagger, dataset: PackDataset, config: TrainingConfig, validation: Validation, teacher: Tagger | None
) -> dict[str, Any]:
    """Return what a run is of, as JSON values: settings, clips, validation, teacher, and the network it begins with."""
    taught = {} if teacher is None else {"teacher_sha256": sha256_of(teacher)}
    return {
        "training": config.to_dict(),
        "data": dataset.identity(),
        "validation": dict(validation.data),
        "model": model.spec.to_dict(),
        "parent_sha256": model.provenance.sha256,
        **taught,
        **_frozen_by_hand(model, config),
        **_beside_the_file(model),
    }


def _frozen_by_hand(model: Tagger, config: TrainingConfig) -> dict[str, Any]:
    """Return what tells the parameters that may not learn, beside those that `config` freezes; nothing for none."""
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if config.freeze_backbone or not names:  # which lets the others learn
        return {}
    return {"frozen_sha256": sha256_of_json(names)}


def _beside_the_file(model: Tagger) -> dict[str, Any]:
    """Return what tells a network from that of its file: nothing for one as it was read.

    Steps are told by their settings, which a repetition of them shares whatever its last digits are. Weights are told
    where chance made some of them: of a network that was never read, and of a new classifier.
    """
    known = model.provenance
    since = {
        f"{number}-{done.kind}": {key: value for key, value in done.settings.items() if key not in _MEASURED}
        for number, done in enumerate(known.since_read, start=1)
    }
    kinds = {done.kind for done in known.since_read}
    told: dict[str, Any] = {"since": json.loads(json.dumps(since))} if since else {}
    if "prune" in kinds and known.plan is not None:
        told["since_plan_sha256"] = known.plan.digest
    if known.sha256 is None or known.n_read is None or "transfer" in kinds:
        told["weights_sha256"] = weights_digest(model)
    return told
