"""Expected hours of each step on a laptop and on one GPU, by rates that were measured; see docs/tutorials/panns.md."""

from typing import NamedTuple

# Scoring takes the time of (MACs of the network + FRONT_END) at RATE. FRONT_END, in 1e9 MACs for 10 s of sound, is the
# intercept of the line through the two networks of results/benchmarks/pruned_latency.json. RATE on the laptop, in 1e9
# MACs a second, is from results/benchmarks/evaluate_cpu.json: 8.5 clips of 10 s a second on two cores.
MACS, FRONT_END = 20.04, 2.8
LAPTOP_RATE = 8.5 * (MACS + FRONT_END)
# PANNs train 600,000 steps of 32 clips of 10 s (after mixup) in 3 to 7 days on one V100 (their README), and a step
# costs about three forward passes. The slower end is taken: 95 clips scored a second.
BATCH = 32
GPU_RATE = 3 * BATCH * 600_000 / (7 * 86_400) * (MACS + FRONT_END)
GPU_SPEED = GPU_RATE / LAPTOP_RATE
# Seconds of pruning and recovery on a laptop: a fixed part, the equations of every layer, and a part for each clip.
# From results/benchmarks/recover_ls.json.
LS_FIXED, LS_PER_CLIP = 60.0, 1.3
# Gradient steps of `--method auto`, and the seconds of sound of each (24 crops of 2 s).
ALIGN_STEPS, ALIGN_SECONDS = 1_500, 48.0
PACKED_PER_HOUR = 130 * 10 * 3600  # seconds of sound, two processes: results/benchmarks/pack_flac.json
TRAINING_RATE = 4.0  # clips of 10 s a second, bfloat16, two cores: results/benchmarks/train_step.json
MEMORY_GB = 4.0


class Hours(NamedTuple):
    """Expected time.

    Attributes:
        laptop: On two cores of a CPU.
        gpu: On one GPU like a V100.
    """

    laptop: float = 0.0
    gpu: float = 0.0


def scoring(macs: float, seconds: float) -> Hours:
    """Return the time to score sound.

    Args:
        macs: Fraction of the unpruned network's MACs.
        seconds: Length of the sound that the network reads.
    """
    work = (MACS * macs + FRONT_END) * seconds / 10 / 3600
    return Hours(work / LAPTOP_RATE, work / GPU_RATE)


def least_squares(clips: int) -> Hours:
    """Return the time to prune and to fit by least squares."""
    hours = (LS_FIXED + LS_PER_CLIP * clips) / 3600
    return Hours(hours, hours / GPU_SPEED)


def alignment(macs: float, dense: float) -> Hours:
    """Return the time of the gradient steps of `--method auto`.

    A step costs a forward pass of the unpruned network and three of the pruned one.

    Args:
        macs: MACs of the pruned network, as a fraction of the released network's.
        dense: The same of the unpruned network.
    """
    sound = ALIGN_STEPS * ALIGN_SECONDS
    passes = [scoring(dense, sound), *3 * [scoring(macs, sound)]]
    return Hours(sum(each.laptop for each in passes), sum(each.gpu for each in passes))


def packing(seconds: float) -> Hours:
    """Return the time to decode and pack sound, which does not depend on the GPU."""
    return Hours(seconds / PACKED_PER_HOUR, seconds / PACKED_PER_HOUR)


def training(macs: float, steps: int, *, validations: int) -> Hours:
    """Return the time of `steps` steps on `BATCH` clips of 10 s each, and of the clips that are scored between them."""
    share = (MACS * macs + FRONT_END) / (MACS + FRONT_END)
    scored = scoring(macs, 10.0 * validations)
    trained = BATCH * steps * share / 3600
    gpu = trained * 3 * (MACS + FRONT_END) / GPU_RATE
    return Hours(trained / TRAINING_RATE + scored.laptop, gpu + scored.gpu)
