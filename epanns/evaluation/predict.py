"""A tagger and a pack to one row of scores per clip: whole clips, or windows and their aggregation."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epanns.data.compatibility import require_same_task
from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.loader import make_loader
from epanns.data.sampler import sequential_batches
from epanns.distributed import gather, gather_rows, rank, world_size
from epanns.errors import CheckpointError, ConfigError, PackError
from epanns.evaluation.protocol import AGGREGATES, EvaluationProtocol
from epanns.evaluation.windows import cut_windows
from epanns.feedback import Progress
from epanns.models.folding import batch_norms_folded
from epanns.models.modes import channels_last, evaluation_mode
from epanns.models.pooling import ModelOutput
from epanns.models.tagger import Tagger

_CPU_PASS = 20  # seconds of sound that go through the network at once


@dataclass(frozen=True)
class Predictions:
    """Scores beside the truth, one row per clip in the order of the data.

    Attributes:
        clip_ids: ``(clips,)``.
        scores: ``(clips, classes)`` float64 in [0, 1].
        target: ``(clips, classes)`` bool.
        mean_samples: Mean number of samples of the clips before their padding, as they were read.
        task: The network's: ``multi-label``, or ``single-label``, where each clip has one class.
    """

    clip_ids: tuple[str, ...]
    scores: NDArray[np.float64]
    target: NDArray[np.bool_]
    mean_samples: float = 0.0
    task: str = "multi-label"


def predict(
    model: Tagger,
    dataset: PackDataset,
    protocol: EvaluationProtocol | None = None,
    *,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress | None = None,
) -> Predictions:
    """Score every clip of a pack on the model's own device, in eval mode; the model is left as it was.

    Of several processes each scores its share, no clip twice, and returns the scores of all.

    Args:
        model: Tagger whose classes and sample rate are those of the pack.
        dataset: Clips to score, in their order.
        protocol: Whole clip (default) or windows.
        batch_size: Clips read at once, and clips or windows in one forward pass at most.
        workers: Processes that read clips; 0 reads here.
        progress: Told the number of clips done and in all after each batch, of those that this process scores.

    Raises:
        ConfigError: If model and pack differ in sample rate or classes, clips of a single-label network have no or
            several classes, or clips shall be heard at their own length and a pack does not tell it.
        PackError: If the pack has no clip.
        CheckpointError: If the network gives a score that is not finite.
    """
    require_same_task(model, dataset)
    if len(dataset) == 0:
        raise PackError("the pack has no clip: nothing to evaluate")
    if protocol is not None:
        refuse_unknown_lengths(dataset, protocol)
    clip_ids: list[str] = []
    scores = [torch.empty(0, model.spec.num_classes, dtype=torch.float64)]
    target = [torch.empty(0, model.spec.num_classes, dtype=torch.bool)]
    device, n_samples = next(model.parameters()).device, 0
    batches = sequential_batches(len(dataset), batch_size, rank=rank(), world_size=world_size())
    with evaluation_mode(model), channels_last(model), batch_norms_folded(model), torch.no_grad():
        for batch in make_loader(dataset, batches, workers=workers):
            clipwise = score_batch(model, batch.to(device), protocol or EvaluationProtocol(), batch_size)
            clip_ids += batch.clip_ids
            n_samples += int(batch.n_samples.sum())
            scores.append(clipwise.double().cpu())
            target.append(batch.target.cpu())
            if progress is not None:
                progress(len(clip_ids), sum(map(len, batches)))
    predictions = Predictions(
        clip_ids=tuple(itertools.chain.from_iterable(gather(clip_ids))),
        scores=gather_rows(torch.cat(scores)).numpy(),
        target=gather_rows(torch.cat(target)).numpy(),
        mean_samples=sum(gather(n_samples)) / len(dataset),
        task=model.spec.task,
    )
    _require_finite(predictions, model.spec.name)
    return predictions


def refuse_unknown_lengths(dataset: PackDataset, protocol: EvaluationProtocol) -> None:
    """Raise `ConfigError` if clips shall be heard at their own length and a pack does not tell it."""
    for source in dataset.sources:
        if protocol.own_length and not source.knows_lengths:
            raise ConfigError(
                f"own_length: {source.path} does not say how long its clips are, PANNs' format has no place for it: "
                "score whole clips, or pack the sound in our own format"
            )


def score_windows(model: Tagger, windows: Iterable[Tensor], *, batch_size: int = 16) -> Iterator[Tensor]:
    """Score the windows of a recording of any length, a few at a time.

    Args:
        model: Tagger; evaluated on its own device, and left in the mode it was in.
        windows: ``(samples,)`` float in [-1, 1] at the model's sample rate, all of one length.
        batch_size: Windows in one forward pass at most; see `clips_in_pass`.

    Yields:
        ``(windows, classes)`` probabilities of the next windows, float32 on the CPU.

    Raises:
        CheckpointError: If a score is not finite.
    """
    device = next(model.parameters()).device
    remaining, n_done = iter(windows), 0  # of a batch, which passes divide as `in_passes` does
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
    """Return how many clips of `n_samples` go through the network at once, of a batch.

    On a CPU a pass is twenty seconds of sound, however large the batch: the maps of more leave its caches, and take up
    to twice as long. Elsewhere it is `batch_size` clips.
    """
    if device.type != "cpu":
        return batch_size
    seconds = n_samples / model.spec.front_end.sample_rate
    return max(1, min(batch_size, round(_CPU_PASS / seconds)))


def in_passes(model: Tagger, waveform: Tensor, batch_size: int) -> list[ModelOutput]:
    """Return the outputs of ``(clips, samples)``, the clips of one forward pass after those of the other."""
    n_clips = clips_in_pass(model, waveform.shape[1], waveform.device, batch_size)
    return [model(clips) for clips in torch.split(waveform, n_clips)]


def pieces_of(batch: ClipBatch, protocol: EvaluationProtocol, sample_rate: int) -> list[Tensor]:
    """Return what a network hears of each clip, ``(pieces, samples)``: one row, or the windows of the protocol."""
    waveform, lengths = batch.float_waveform(), batch.n_samples.clamp(min=1).tolist()
    if protocol.window is None:
        ends = lengths if protocol.own_length else [waveform.shape[1]] * len(batch)
        return [clip[None, :end] for clip, end in zip(waveform, ends, strict=True)]
    window = max(1, round(protocol.window * sample_rate))
    hop = window if protocol.hop is None else max(1, round(protocol.hop * sample_rate))
    return [cut_windows(clip[:length], window, hop) for clip, length in zip(waveform, lengths, strict=True)]


def score_batch(model: Tagger, batch: ClipBatch, protocol: EvaluationProtocol, batch_size: int) -> Tensor:
    """Return the probabilities ``(clips, classes)`` of a batch on the model's device, in the mode the model is in."""
    waveform = batch.float_waveform()
    if protocol.own_length:
        lengths = batch.n_samples.clamp(min=1)
        scores = waveform.new_empty(len(batch), model.spec.num_classes)
        for length in sorted(set(lengths.tolist())):
            equal = lengths == length
            outputs = in_passes(model, waveform[equal, :length], batch_size)
            scores[equal] = torch.cat([output["clipwise_output"] for output in outputs])
        return scores
    if protocol.window is None:
        return torch.cat([output["clipwise_output"] for output in in_passes(model, waveform, batch_size)])
    clips = pieces_of(batch, protocol, model.spec.front_end.sample_rate)
    outputs = in_passes(model, torch.cat(clips), batch_size)
    counts = [len(windows) for windows in clips]
    logits = torch.split(torch.cat([output["clipwise_logits"] for output in outputs]), counts)
    probabilities = torch.split(torch.cat([output["clipwise_output"] for output in outputs]), counts)
    aggregate = AGGREGATES[protocol.aggregate]
    activation = model.spec.activation
    return torch.stack([aggregate(*scores, activation) for scores in zip(logits, probabilities, strict=True)])


def _require_finite(predictions: Predictions, name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(predictions.scores).all(axis=1))
    if len(broken):
        raise CheckpointError(
            f"{name} gives scores that are not finite for {len(broken)} of {len(predictions.clip_ids)} clips, "
            f"first {predictions.clip_ids[broken[0]]!r}: "
            "its weights have diverged or are damaged; train again with a lower learning rate"
        )
