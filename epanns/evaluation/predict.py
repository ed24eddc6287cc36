"""Scores of the clips of a pack, and of the windows of a recording while it is decoded."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epanns.audio.waveform import WaveformStream
from epanns.clip_scores import ClipScores
from epanns.data.batches.compatibility import require_same_rate, require_same_task
from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import sequential_batches
from epanns.distributed import gather, gather_rows, rank, world_size
from epanns.errors import CheckpointError, ConfigError, PackError
from epanns.evaluation.protocol import AGGREGATES, EvaluationProtocol, cut_windows, windows_of
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.models.layers.folding import batch_norms_folded
from epanns.models.layers.pooling import ModelOutput
from epanns.models.modes import channels_last, evaluation_mode
from epanns.models.tagger import Tagger

WHOLE_SECONDS = 30  # feature maps of longer recordings would take gigabytes
WINDOW_SECONDS = 10  # the clip length PANNs were trained on
_CPU_PASS = 20  # seconds of sound in one forward pass


@dataclass(frozen=True)
class Predictions:
    """Scores and targets, one row per clip in the order of the data.

    Attributes:
        clip_ids: ``(clips,)``.
        scores: ``(clips, classes)`` float64 in [0, 1].
        target: ``(clips, classes)`` bool.
        mean_samples: Mean number of samples of the clips without padding.
        task: Task of the network: ``multi-label``, or ``single-label`` with one class per clip.
        logits: ``(clips, classes)`` float32, means over the windows of a clip where the protocol has windows; None
            where only scores are known.
    """

    clip_ids: tuple[str, ...]
    scores: NDArray[np.float64]
    target: NDArray[np.bool_]
    mean_samples: float = 0.0
    task: str = "multi-label"
    logits: NDArray[np.float32] | None = None

    def to_clip_scores(self, labels: LabelSet, groups: Sequence[str] = ()) -> ClipScores:
        """Return the content of ``scores.npz``: scores and targets of these classes, and the group of each clip."""
        return ClipScores(
            self.clip_ids, tuple(labels.names), self.scores.astype(np.float32), self.target, tuple(groups)
        )


def predict(
    model: Tagger,
    dataset: PackDataset,
    protocol: EvaluationProtocol | None = None,
    *,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
    same_classes: bool = True,
) -> Predictions:
    """Score every clip of a pack on the model's device, in evaluation mode; the model is left unchanged.

    Each of several processes scores its share of the clips and returns the scores of all clips.

    Args:
        model: Tagger whose sample rate is that of the pack.
        dataset: Clips to score, in their order.
        protocol: Whole clip (default) or windows.
        batch_size: Number of clips read at once, and largest number of clips or windows in one forward pass.
        workers: Number of processes that read clips; 0 reads in this process.
        progress: Called after each batch with the number of clips that this process has scored and will score.
        same_classes: Whether the pack must have the model's classes. If not, `Predictions.target` has the pack's own
            classes, and may have another number of columns than the scores.

    Raises:
        ConfigError: If model and pack differ in sample rate or classes, clips of a single-label network have no or
            several classes, or `own_length` is set and a pack does not store the lengths of its clips.
        PackError: If the pack has no clip.
        CheckpointError: If a score is not finite.
    """
    (require_same_task if same_classes else require_same_rate)(model, dataset)
    if len(dataset) == 0:
        raise PackError("the pack has no clip: nothing to evaluate")
    if protocol is not None:
        refuse_unknown_lengths(dataset, protocol)
    clip_ids: list[str] = []
    scores = [torch.empty(0, model.spec.num_classes, dtype=torch.float64)]
    logits = [torch.empty(0, model.spec.num_classes)]
    target = [torch.empty(0, len(dataset.labels), dtype=torch.bool)]
    device, n_samples = next(model.parameters()).device, 0
    batches = sequential_batches(len(dataset), batch_size, rank=rank(), world_size=world_size())
    with evaluation_mode(model), channels_last(model), batch_norms_folded(model), torch.no_grad():
        for batch in make_loader(dataset, batches, workers=workers):
            clipwise = score_batch(model, batch.to(device), protocol or EvaluationProtocol(), batch_size)
            clip_ids += batch.clip_ids
            n_samples += int(batch.n_samples.sum())
            scores.append(clipwise.scores.double().cpu())
            logits.append(clipwise.logits.float().cpu())
            target.append(batch.target.cpu())
            if progress is not None:
                progress(len(clip_ids), sum(map(len, batches)))
    predictions = Predictions(
        clip_ids=tuple(itertools.chain.from_iterable(gather(clip_ids))),
        scores=gather_rows(torch.cat(scores)).numpy(),
        target=gather_rows(torch.cat(target)).numpy(),
        mean_samples=sum(gather(n_samples)) / len(dataset),
        task=model.spec.task,
        logits=gather_rows(torch.cat(logits)).numpy(),
    )
    broken = np.flatnonzero(~np.isfinite(predictions.scores).all(axis=1))
    if len(broken):
        raise CheckpointError(
            f"{model.spec.name} gives scores that are not finite for {len(broken)} of {len(predictions.clip_ids)} "
            f"clips, first {predictions.clip_ids[broken[0]]!r}: "
            "its weights have diverged or are damaged; train again with a lower learning rate"
        )
    return predictions


def refuse_unknown_lengths(dataset: PackDataset, protocol: EvaluationProtocol) -> None:
    """Raise `ConfigError` if `own_length` is set and a pack does not store the lengths of its clips."""
    for source in dataset.sources:
        if protocol.own_length and not source.knows_lengths:
            raise ConfigError(
                f"own_length: {source.path} does not store the lengths of its clips, as all packs in PANNs' format: "
                "score whole clips, or pack the sound in the format of epanns"
            )


def score_windows(model: Tagger, windows: Iterable[Tensor], *, batch_size: int = 16) -> Iterator[Tensor]:
    """Score the windows of a recording of any length, few at a time.

    Args:
        model: Tagger, evaluated on its own device; its mode is restored.
        windows: ``(samples,)`` float in [-1, 1] at the model's sample rate, all of one length.
        batch_size: Largest number of windows in one forward pass; see `clips_in_pass`.

    Yields:
        ``(windows, classes)`` probabilities of the next windows, float32 on the CPU.

    Raises:
        CheckpointError: If a score is not finite.
    """
    device = next(model.parameters()).device
    remaining, n_done = iter(windows), 0  # of a batch, divided into passes as in `in_passes`
    for window in remaining:
        n_windows = min(clips_in_pass(model, len(window), device, batch_size), batch_size - n_done)
        n_done = (n_done + n_windows) % batch_size
        batch = torch.stack([window, *itertools.islice(remaining, n_windows - 1)])
        with evaluation_mode(model), torch.no_grad():
            scores = model(batch.to(device))["clipwise_output"].cpu()
        if not bool(scores.isfinite().all()):
            raise CheckpointError(f"{model.spec.name} gives scores that are not finite: its weights are damaged")
        yield scores


def clips_in_pass(model: Tagger, n_samples: int, device: torch.device, batch_size: int) -> int:
    """Return the number of clips of `n_samples` in one forward pass.

    On a CPU a pass is at most twenty seconds of sound: larger feature maps do not fit its caches and take up to twice
    as long. On other devices it is `batch_size` clips.
    """
    if device.type != "cpu":
        return batch_size
    seconds = n_samples / model.spec.front_end.sample_rate
    return max(1, min(batch_size, round(_CPU_PASS / seconds)))


def in_passes(model: Tagger, waveform: Tensor, batch_size: int) -> list[ModelOutput]:
    """Return the outputs for ``(clips, samples)``, one for each forward pass."""
    n_clips = clips_in_pass(model, waveform.shape[1], waveform.device, batch_size)
    return [model(clips) for clips in torch.split(waveform, n_clips)]


def pieces_of(batch: ClipBatch, protocol: EvaluationProtocol, sample_rate: int) -> list[Tensor]:
    """Return the network's input for each clip, ``(pieces, samples)``: the clip, or the windows of the protocol."""
    waveform, lengths = batch.float_waveform(), batch.n_samples.clamp(min=1).tolist()
    if protocol.window is None:
        ends = lengths if protocol.own_length else [waveform.shape[1]] * len(batch)
        return [clip[None, :end] for clip, end in zip(waveform, ends, strict=True)]
    window = max(1, round(protocol.window * sample_rate))
    hop = window if protocol.hop is None else max(1, round(protocol.hop * sample_rate))
    return [cut_windows(clip[:length], window, hop) for clip, length in zip(waveform, lengths, strict=True)]


class BatchScores(NamedTuple):
    """Scores in [0, 1] and logits of a batch of clips, each ``(clips, classes)``."""

    scores: Tensor
    logits: Tensor


def score_batch(model: Tagger, batch: ClipBatch, protocol: EvaluationProtocol, batch_size: int) -> BatchScores:
    """Return the scores of a batch and its logits, means over windows, on the model's device, in the present mode."""
    waveform = batch.float_waveform()
    if protocol.own_length:
        lengths = batch.n_samples.clamp(min=1)
        found = BatchScores(*(waveform.new_empty(len(batch), model.spec.num_classes) for _ in BatchScores._fields))
        for length in sorted(set(lengths.tolist())):
            equal = lengths == length
            for whole, part in zip(found, _joined(in_passes(model, waveform[equal, :length], batch_size)), strict=True):
                whole[equal] = part
        return found
    if protocol.window is None:
        return _joined(in_passes(model, waveform, batch_size))
    clips = pieces_of(batch, protocol, model.spec.front_end.sample_rate)
    by_clip = [
        torch.split(part, [len(windows) for windows in clips])
        for part in _joined(in_passes(model, torch.cat(clips), batch_size))
    ]
    aggregate = AGGREGATES[protocol.aggregate]
    activation = model.spec.activation
    scores = [aggregate(logits, probabilities, activation) for probabilities, logits in zip(*by_clip, strict=True)]
    return BatchScores(torch.stack(scores), torch.stack([logits.mean(dim=0) for logits in by_clip[1]]))


def _joined(outputs: Sequence[ModelOutput]) -> BatchScores:
    """Join the outputs of several forward passes."""
    scores, logits = ([output[key] for output in outputs] for key in ("clipwise_output", "clipwise_logits"))
    return BatchScores(torch.cat(scores), torch.cat(logits))


@dataclass(frozen=True)
class ScoredWindow:
    """A window of a recording and its scores.

    Attributes:
        start: Start of the window in seconds from the beginning of the recording.
        end: End of the window, likewise.
        scores: ``(classes,)`` probabilities, float32 on the CPU.
    """

    start: float
    end: float
    scores: Tensor


def score_recording(model: Tagger, stream: WaveformStream, protocol: EvaluationProtocol) -> Iterator[ScoredWindow]:
    """Score a recording window by window; memory does not depend on its length.

    Args:
        model: Tagger, evaluated on its own device; its mode is restored.
        stream: The recording, at the model's sample rate.
        protocol: Window and hop. Without a window a recording of up to `WHOLE_SECONDS` is scored whole, a longer
            recording in windows of `WINDOW_SECONDS`. A recording shorter than the window is scored at its own length.

    Raises:
        DataError: If the recording cannot be decoded to its end.
        CheckpointError: If a score is not finite.
    """
    rate = stream.sample_rate
    blocks: Iterator[Tensor] = map(torch.from_numpy, stream)
    window = 0 if protocol.window is None else max(1, round(protocol.window * rate))
    if protocol.window is None:
        held: list[Tensor] = []
        for block in blocks:
            held.append(block)
            window += len(block)
            if window > WHOLE_SECONDS * rate:
                window = WINDOW_SECONDS * rate
                break
        blocks = itertools.chain(held, blocks)
    hop = window if protocol.hop is None else max(1, round(protocol.hop * rate))
    places: deque[tuple[int, int]] = deque()

    def pieces() -> Iterator[Tensor]:
        for start, piece in windows_of(blocks, window, hop):
            places.append((start, start + len(piece)))
            yield piece

    for scores in score_windows(model, pieces()):
        for row in scores:
            start, end = places.popleft()
            yield ScoredWindow(round(start / rate, 6), round(end / rate, 6), row)
