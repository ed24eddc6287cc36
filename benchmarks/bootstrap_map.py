"""CPU time of 1,000 bootstrap resamples of the mAP of 20,000 clips and 527 classes, with the exact average precision.

The clips are as many as AudioSet's evaluation set, with as many labels a clip and classes as unequal; a tenth of the
scores are tied. The peer computes scikit-learn's average precision of every class of a few resamples; its time for all
of them follows in proportion. Both have the same values. Both use one thread, and their CPU time is compared, which
other work on the machine hardly changes.
"""

import time

import numpy as np
import record
from sklearn.metrics import average_precision_score

from epanns.statistics.bootstrap import mean_average_precision, mean_average_precision_interval, resampled_weights

CLIPS, CLASSES, RESAMPLES, SECONDS = 20_000, 527, 1_000, 120
PEER_RESAMPLES = 2


def make_scores() -> tuple[np.ndarray, np.ndarray]:
    """Return targets and scores with the shape of AudioSet's evaluation set."""
    rng = np.random.default_rng(0)
    share = np.minimum(rng.pareto(1.0, CLASSES) + 0.2, 60)
    target = rng.random((CLIPS, CLASSES)) < 2.7 * share / share.sum()
    scores = (0.3 * target + rng.normal(0, 0.2, target.shape)).astype(np.float32)
    is_tied = rng.random(target.shape) < 0.1
    scores[is_tied] = np.round(scores[is_tied], 1)
    return target, scores


def main() -> None:
    """Measure both sides and save the record."""
    target, scores = make_scores()
    started, wall = time.process_time(), time.perf_counter()
    interval = mean_average_precision_interval(target, scores, resamples=RESAMPLES)
    seconds, wall_seconds = time.process_time() - started, time.perf_counter() - wall
    assert interval is not None

    weights = next(resampled_weights(CLIPS, RESAMPLES, 0))[:PEER_RESAMPLES]
    started, found = time.process_time(), []
    for row in weights:
        columns = [column for column in range(CLASSES) if (row @ target[:, column]) > 0]
        ap = [average_precision_score(target[:, each], scores[:, each], sample_weight=row) for each in columns]
        found.append(np.mean(ap))
    peer = (time.process_time() - started) / PEER_RESAMPLES * RESAMPLES
    difference = float(np.abs(np.array(found) - mean_average_precision(target, scores, weights)).max())
    record.save(
        "bootstrap_map",
        what=f"{RESAMPLES:,} bootstrap resamples of the mAP of {CLIPS:,} clips and {CLASSES} classes, exact",
        against="scikit-learn's average precision of every class and resample, one thread (from two resamples)",
        target=f"under {SECONDS} s of CPU time, equal to 1e-12",
        met=seconds < SECONDS and difference < 1e-12,
        result={
            "headline": f"{seconds:.0f} s against {peer / 60:.0f} min; equal to {difference:.0e}",
            "seconds": round(seconds, 1),
            "wall_seconds": round(wall_seconds, 1),
            "peer_seconds": round(peer),
            "difference": difference,
            "interval": interval,
            "positives": int(target.sum()),
        },
    )


if __name__ == "__main__":
    main()
