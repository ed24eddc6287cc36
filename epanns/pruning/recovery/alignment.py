"""Recovery ``align:STEPS``: gradient steps that match every layer's kept channels of the unpruned network.

With f_S the input of a layer in the pruned network and f_T its kept channels in the unpruned network, behind ReLU and
pooling, and with the probabilities p of the classes, the loss is

    mean over layers of |f_S - f_T|^2 / |f_T - mean f_T|^2  +  KL(p_T || p_S) / KL(p_T || mean p_T)

with means of the held-out clips. The layers are those that read something that pruning changed, the classifier, which
reads the embedding, among them; the map before the pooling over time counts as one more. The parts of the network
before the first pruned layer are computed once for both networks and stay as they are.

The divergence of the probabilities (of one choice per class, or of one choice among all classes for single-label
networks) is what keeps the tags: an error of the logits relative to their variance is not, because logits vary most
between silence and sound.

Sources: internal states as targets after pruning: Practise (Wang and Wu 2022, arXiv 2202.07861), STARFISH (2026, arXiv
2606.01126).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.audio.short_clips import repeat_to_minimum
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Features, Tagger
from epanns.pruning.calibration_clips import ClipSource
from epanns.pruning.recovery.descent import Descent, DescentSettings, RecoveryRun, descend
from epanns.pruning.recovery.distillation import require_same_classes
from epanns.pruning.recovery.least_squares_refit import channel_statistics, channel_sums
from epanns.pruning.recovery.paired_features import run_stage, stages_of_modules
from epanns.pruning.surgery import ChannelGroup, groups_and_order

_LAST_MAP = "the last map"
# Inputs of about 47 s of sound a step: patches of YAMNet, which scores each by itself; for networks that pool over the
# clip longer crops, in which fewer places are near an end.
_ONE_PATCH: Mapping[str, Any] = {"crop_seconds": 0.975, "batch": 48, "part": 16}
_TWO_SECONDS: Mapping[str, Any] = {"crop_seconds": 2.0, "batch": 24, "part": 8}
_HIGHEST_LOGIT = 30.0  # of a mean probability, which float32 may round to 0 or 1


def align(
    pruned: Tagger,
    dense: Tagger,
    clips: ClipSource,
    *,
    steps: int,
    plan: PruningPlan,
    seed: int = 0,
    run: RecoveryRun | None = None,
) -> Descent:
    """Train a pruned network toward the kept channels of every layer of the unpruned one, in place.

    Args:
        pruned: Result of ``apply_plan(dense, plan)``, as it is or after `refit_readers`.
        dense: The unpruned network; not touched.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1], all of one length: real sound, unlabelled, at
            least two clips, better a thousand. Every fifth clip is held out.
        steps: Number of steps, > 0.
        plan: Leads from `dense` to `pruned`, in the channel numbers of `dense`.
        seed: Seed of crops, gains and mixtures.
        run: Folder of the states, progress and log.

    Raises:
        PruningError: If the classes differ, there are too few clips or too many for memory, or a value is not finite.
            After this or any other error `pruned` is as it was.
        Interrupted: After a signal, if `run` has a folder.
    """
    require_same_classes(pruned, dense, before="align")
    settings = DescentSettings(steps, seed, **(_ONE_PATCH if dense.spec.front_end.is_yamnet else _TWO_SECONDS))
    distance = LayerDistance(pruned, dense, plan)
    identity = {"method": "align", "plan": plan.digest}
    done = descend(pruned, dense, clips, distance, settings, identity=identity, run=run)
    pruned.provenance = pruned.provenance.with_operation("recover", method="align", **done.settings(steps, seed))
    return done


class LayerDistance:
    """The loss of the module's head between a pruned network and the unpruned one.

    Attributes:
        layers: Names of the layers whose inputs are compared, in forward order.
    """

    def __init__(self, student: Tagger, teacher: Tagger, plan: PruningPlan) -> None:
        self._student, self._teacher = student, teacher
        groups, order = groups_and_order(teacher)
        pruned = [group for group in groups.values() if group.layer in plan.pruned_layers]
        stages = stages_of_modules(teacher)
        changed = {name for group in pruned for name in group.producers}
        first = min((order.layers.index(name) for name in changed), default=len(order.layers))
        self.layers = order.layers[first + 1 :]
        self._shared = min((stages[name] for name in changed), default=len(teacher.stages()) + 1)
        self._kept = _kept_inputs(teacher, pruned, plan)
        self._map_channels = 0
        in_head = [name for name in self.layers if stages[name] > len(teacher.stages())]
        if in_head:  # pooling keeps the channels, in their order
            reader = teacher.get_submodule(in_head[0])
            self._map_channels = reader.get_parameter("weight").shape[1]
            self._kept[_LAST_MAP] = self._kept.get(in_head[0])
        self._scales: dict[str, Tensor] = {}
        self._scale_of_scores = torch.ones(())

    @torch.no_grad()
    def scale_to(self, batches: Iterator[Tensor]) -> None:
        """See `descent.Objective`."""
        sums: dict[str, list[Tensor]] = {}
        logits: list[Tensor] = []
        for waveform in batches:
            inputs, features = self._shared_features(waveform)
            for name, value in self._targets(inputs, features, logits).items():
                sums.setdefault(name, []).append(channel_sums(value))
        for name, parts in sums.items():
            variance = channel_statistics(parts)[1].mean().float()
            self._scales[name] = torch.where(variance > 0, variance, torch.ones_like(variance))
        wanted = torch.cat(logits)
        choices = self._student.spec.activation == "softmax"
        mean = wanted.softmax(dim=1).mean(dim=0).log() if choices else wanted.sigmoid().mean(dim=0).logit()
        divergence = self._divergence(wanted, mean.clamp(-_HIGHEST_LOGIT, _HIGHEST_LOGIT).expand_as(wanted))
        self._scale_of_scores = torch.where(divergence > 0, divergence, torch.ones_like(divergence))

    def loss(self, waveform: Tensor) -> Tensor:
        """See `descent.Objective`."""
        logits: list[Tensor] = []
        with torch.no_grad():
            inputs, features = self._shared_features(waveform)
            targets = self._targets(inputs, features, logits)
        errors: list[Tensor] = []

        def compare(name: str, value: Tensor) -> None:
            if name in targets:
                errors.append((value - targets[name]).square().mean() / self._scales[name])

        found = self._run(self._student, inputs, features, compare)
        of_scores = self._divergence(logits[0], found) / self._scale_of_scores
        return torch.stack(errors).mean() + of_scores if errors else of_scores

    def _divergence(self, wanted: Tensor, found: Tensor) -> Tensor:
        """Return the mean Kullback-Leibler divergence of the probabilities of logits ``(batch, classes)``, in nats."""
        if self._student.spec.activation == "softmax":
            return F.kl_div(found.log_softmax(dim=1), wanted.log_softmax(dim=1), reduction="batchmean", log_target=True)
        present, absent = (
            logits.sigmoid() * (F.logsigmoid(logits) - F.logsigmoid(others))
            for logits, others in ((wanted, found), (-wanted, -found))
        )
        return (present + absent).sum(dim=1).mean()

    def _shared_features(self, waveform: Tensor) -> tuple[Features, Features]:
        """Return the front end's output and the features before the first stage in which the networks differ."""
        inputs = self._student.inputs_of(repeat_to_minimum(waveform, self._student.minimum_samples))
        features = inputs
        for stage in range(self._shared):
            features = run_stage(self._student, stage, features)
        return inputs, features

    def _targets(self, inputs: Features, features: Features, logits: list[Tensor]) -> dict[str, Tensor]:
        """Return the kept channels of the teacher by layer, channels second, and append its logits to `logits`."""
        found: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            if name == _LAST_MAP and value.shape[1] != self._map_channels:
                return  # the head does not read its channels as they are
            kept = self._kept.get(name)
            found[name] = value if kept is None else value[:, kept]

        logits.append(self._run(self._teacher, inputs, features, keep))
        return found

    def _run(self, model: Tagger, inputs: Features, features: Features, take: Callable[[str, Tensor], None]) -> Tensor:
        """Run the stages that are not shared and the head; pass compared tensors to `take`, and return the logits."""
        with _taking_inputs(model, self.layers, take):
            for stage in range(self._shared, len(model.stages()) + 1):
                features = run_stage(model, stage, features)
            take(_LAST_MAP, features[0])
            return model.head(features, inputs)["clipwise_logits"]


@contextmanager
def _taking_inputs(model: Tagger, layers: tuple[str, ...], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Pass the input of each layer, channels second, to `take` when the layer runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            take(name, inputs[0].movedim(-1, 1) if isinstance(module, nn.Linear) else inputs[0])

        return before

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept_inputs(teacher: Tagger, pruned: list[ChannelGroup], plan: PruningPlan) -> dict[str, Tensor | None]:
    """Return each layer's input channels that are kept, numbered as in the teacher; layers that keep all are absent."""
    kept: dict[str, Tensor | None] = {}
    for group in pruned:
        channels = torch.tensor(plan.kept_channels[group.layer])
        kept |= dict.fromkeys(group.depthwise, channels)
        for reader in group.readers:
            width = teacher.get_submodule(reader.name).get_parameter("weight").shape[1]
            removed = torch.ones(group.width, dtype=torch.bool)
            removed[channels] = False
            left = kept.get(reader.name)
            left = torch.arange(width) if left is None else left
            own = torch.arange(group.width)[removed] + reader.offset
            kept[reader.name] = left[~torch.isin(left, own)]
    return kept
