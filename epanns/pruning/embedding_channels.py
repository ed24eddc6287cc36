"""Channels that the embeddings of two networks share, where pruning removed some of them.

The embedding of most families is the output of ``fc1``, whose size pruning never changes. The embedding of the families
in `WITHOUT_FC1` holds the channels of the last layer, and shrinks with it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import WITHOUT_FC1
from epanns.models.tagger import Tagger

Places = slice | list[int]  # index of channels; a slice takes all of them


class SharedChannels(NamedTuple):
    """Channels that two embeddings have in common.

    Attributes:
        channels: Number of shared channels; 0 where the sizes differ and no plan relates the two embeddings.
        student: Their places in the student's embedding.
        teacher: Their places in the teacher's embedding, in the same order.
    """

    channels: int
    student: Places
    teacher: Places


def shared_channels(student: Tagger, teacher: Tagger, plan: PruningPlan | None = None) -> SharedChannels:
    """Return the channels that both embeddings have.

    Args:
        student: The network in training.
        teacher: The network whose embedding is compared.
        plan: Leads from `teacher` to `student`; by default the plans in the provenance of both relate them.
    """
    size, other_size = student.spec.embedding_size, teacher.spec.embedding_size
    same = SharedChannels(size, slice(None), slice(None)) if size == other_size else SharedChannels(0, [], [])
    if not {student.spec.family, teacher.spec.family} <= WITHOUT_FC1:
        return same
    if plan is None:
        (base, ours), (other_base, theirs) = _channels_of(student), _channels_of(teacher)
        if base != other_base:
            return same
    else:
        theirs = range(other_size)
        ours = plan.kept_channels.get(student.layer_names[-1], theirs)
    if list(ours) == list(theirs):
        return same
    places = {channel: place for place, channel in enumerate(theirs)}
    common = [(place, places[channel]) for place, channel in enumerate(ours) if channel in places]
    return SharedChannels(len(common), [place for place, _ in common], [place for _, place in common])


def _channels_of(model: Tagger) -> tuple[int, Sequence[int]]:
    """Return the width of the last layer before all pruning, and the channels of it that the embedding holds."""
    size, last = model.spec.embedding_size, model.layer_names[-1]
    plan = model.provenance.plan
    if plan is not None and plan.widths.get(last) == size:
        width = plan.base.widths[last]
        return width, plan.kept_channels.get(last, range(width))
    return size, range(size)
