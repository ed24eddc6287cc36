"""A network that learns on several processes at once, each from its share of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from epanns.data.sampler import places_of_step
from epanns.distributed import gather, rank, world_size
from epanns.errors import ConfigError, TrainingError
from epanns.models.tagger import Tagger
from epanns.training.config import TrainingConfig


def own_places(config: TrainingConfig) -> list[int]:
    """Return the places of this process's clips in a step's batch.

    Raises:
        ConfigError: If the batch cannot be shared out, or several processes are to compile.
    """
    if config.compile and world_size() > 1:
        # Batch norms, which talk to the other processes, would break the graph, and little of it would be compiled.
        raise ConfigError(f"compile=True with {world_size()} processes: leave out --compile, or start one process")
    least = config.accumulate * world_size()
    if config.batch_size % least:
        parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared out to {world_size()} processes{parts}: "
            f"take a multiple of {least} (--batch-size)"
        )
    drawn = config.drawn_clips
    together = drawn // config.batch_size
    return places_of_step(drawn, together=together, parts=config.accumulate, rank=rank(), world_size=world_size())


class SharedNetwork:
    """A network that each process calls with its own clips; its gradients become the mean over all processes.

    Alone, it is the network itself.
    """

    def __init__(self, model: Tagger, *, called: nn.Module) -> None:
        """Give `model` the weights that it has on rank 0; `called` is what is called: itself or, alone, compiled."""
        self._model, self._called = model, called
        self._wrapped: DistributedDataParallel | None = None
        self._learning: list[bool] = []
        self.now()

    def now(self) -> nn.Module:
        """Return what to call instead of the network, for the parameters that learn now."""
        learning = [parameter.requires_grad for parameter in self._model.parameters()]
        if world_size() == 1:
            return self._called
        if self._wrapped is None or learning != self._learning:
            self._wrapped, self._learning = None, learning  # the one before lets go of its parameters first
            device = next(self._model.parameters()).device
            self._wrapped = DistributedDataParallel(
                self._called,
                device_ids=None if device.type == "cpu" else [device],
                broadcast_buffers=False,  # batch norms see all processes' clips, and so know the same everywhere
                find_unused_parameters=any(
                    parameter.requires_grad
                    for name in self._model.idle_layers
                    for parameter in self._model.get_submodule(name).parameters()
                ),
            )
        return self._wrapped

    @contextmanager
    def exchanging(self, exchanging: bool) -> Iterator[None]:
        """Exchange gradients in a backward pass of the block, or only add them up on each process for a later one."""
        if exchanging or self._wrapped is None:
            yield
        else:
            with self._wrapped.no_sync():
                yield


def require_same_step(step: int) -> None:
    """Refuse to go on where the processes stand at several steps.

    Raises:
        TrainingError: On all of them.
    """
    steps = gather(step)
    if len(set(steps)) > 1:
        raise TrainingError(
            f"the processes found the run at steps {', '.join(map(str, steps))}: --out must be on a disk they share"
        )
