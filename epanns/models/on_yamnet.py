"""LEAN's networks built on the body of a YAMNet that somebody trained."""

from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.layouts import LEAN_FAMILIES
from epanns.models.lean import Lean
from epanns.models.provenance import Provenance
from epanns.models.tagger import Tagger
from epanns.models.yamnet import Yamnet
from epanns.models.zoo import ZOO, build_model, spec_of


def require_body(name: str) -> None:
    """Refuse a row of the zoo that is not built on the body of a YAMNet.

    Raises:
        ConfigError: If it is another network.
    """
    if spec_of(name).family in LEAN_FAMILIES:
        return
    rows = ", ".join(row for row, spec in ZOO.items() if spec.family in LEAN_FAMILIES)
    remedy = "import and fine-tune it (epanns import, epanns finetune)" if name == "YAMNet" else "leave them out"
    raise ConfigError(
        f"{name} is not built on a YAMNet's body, as {rows} are, for which --yamnet and --freeze-yamnet are: {remedy}"
    )


def build_on_yamnet(name: str, yamnet: Tagger, *, labels: LabelSet | None = None) -> Lean:
    """Return a network of LEAN's rows with the body of `yamnet`, pruned or not, and all else untrained.

    Its provenance names the YAMNet as its source and parent.

    Args:
        name: ``LEAN``, ``LEAN_affinity``, ``LEAN_concat``, ``YAMNet_projection`` or ``YAMNet_linear``.
        yamnet: The network; not touched.
        labels: Names of the classes; FSD50K's by default.

    Raises:
        ConfigError: If `name` is none of these, or `yamnet` is no YAMNet.
    """
    require_body(name)
    if not isinstance(yamnet, Yamnet):
        raise ConfigError(
            f"{yamnet.spec.name} is no YAMNet: give yamnet.h5, its .npz or a checkpoint of YAMNet (--yamnet)"
        )
    spec = ZOO[name].with_widths(yamnet.spec.widths)
    model = build_model(spec, labels=labels)
    assert isinstance(model, Lean)
    model.take_yamnet(yamnet)
    known = yamnet.provenance
    source = "a YAMNet made here" if known.source is None else known.source
    model.provenance = Provenance(f"{name} on the body of {source}", known.sha256, assumed=known.assumed)
    return model


def stays_frozen(provenance: Provenance) -> bool:
    """Return whether YAMNet's body was frozen in the last training of a network."""
    last = provenance.last_training
    return last is not None and bool(last.settings.get("training", {}).get("freeze_yamnet"))
