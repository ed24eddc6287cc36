"""Errors about memory that ran out, and the options that need less of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from epanns.errors import TrainingError
from epanns.state_files import is_out_of_memory
from epanns.training.config import TrainingConfig


@contextmanager
def memory_errors_explained(config: TrainingConfig, kept: Callable[[], str]) -> Iterator[None]:
    """Raise an error that proposes options with less memory, if memory runs out inside the block.

    The options are not changed automatically, since that would be another run. `kept` describes the saved state and how
    to resume.

    Raises:
        TrainingError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        words = " ".join(str(error).split())[:160] or type(error).__name__
        mixed = f" ({config.drawn_clips} clips, mixed in pairs)" if config.mixup_alpha > 0 else ""
        raise TrainingError(
            f"out of memory with --batch-size {config.batch_size}{mixed}, --accumulate {config.accumulate} and "
            f"--precision {config.precision} ({words}); {kept()} where more memory is free, or use "
            f"{proposal(config)} with another --out: that is another run, so nothing is changed by itself"
        ) from error


def proposal(config: TrainingConfig) -> str:
    """Return the options that need less memory, starting with the one that changes the run least."""
    divisors = (n for n in range(config.accumulate + 1, config.batch_size + 1) if config.batch_size % n == 0)
    more_parts = next(divisors, None)
    options = [f"--accumulate {more_parts}"] if more_parts else []
    options += ["--precision bfloat16"] if config.precision == "float32" else []
    options += ["a shorter --crop-seconds"]
    options += [f"--batch-size {config.batch_size // 2}"] if config.batch_size > 1 else []
    return ", ".join(options[:-1]) + " or " + options[-1] if len(options) > 1 else options[0]
