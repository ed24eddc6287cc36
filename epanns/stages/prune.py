"""Fine-tuning between the steps of a pruning: a run of its own for each, so that a stopped pruning goes on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from epanns.data.dataset import PackDataset
from epanns.models.load import load
from epanns.models.tagger import Tagger
from epanns.seeding import derive_seed
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.run_options import RunOptions
from epanns.training.validation import Validation
from epanns.workfolder import Work, WorkFolder

_CLAIM = "steps.json"


@contextmanager
def finetuning_between(
    folder: Path,
    asked: Mapping[str, Any],
    dataset: PackDataset,
    config: TrainingConfig,
    *,
    validation: Validation,
    options: RunOptions | None = None,
    teacher: Tagger | None = None,
) -> Iterator[Callable[[Tagger, int], Tagger]]:
    """Lock the folder and yield the function that `pruning.schedule.prune_towards` calls between its steps.

    Step s is fine-tuned in the run folder ``step<s>``, with an optimizer of its own, and goes on with the best weights
    by validation score. Called again after a stop or a kill, finished runs are only read.

    Args:
        folder: Holds the runs, and ``steps.json``, which says what they belong to.
        asked: What decides the cuts, in JSON values; what is asked of the training is added.
        dataset: Training clips, as in `finetune`.
        config: What each run does; its seed is made of that of `config` and the step, so that each sees other clips.
        validation: As in `finetune`.
        options: As in `finetune`.
        teacher: As in `finetune`, of every run; `asked` must tell it.

    Raises:
        OutputError: If the folder holds runs of another pruning, or something else, or another process works in it.
    """
    training = {"training": config.to_dict(), "data": dataset.identity(), "validation": dict(validation.data)}
    work = Work(
        "holds no runs between steps",
        "holds runs with",
        "these runs",
        "repeat the options to go on, delete it to start over, or choose another --out",
        f"delete {folder} or choose another --out",
    )
    whole = {**asked, **training}
    place = WorkFolder(folder, _CLAIM, work)

    def between(network: Tagger, step: int) -> Tagger:
        run = folder / f"step{step}"
        seed = derive_seed("between", config.seed, step) % 2**32
        own = replace(config, seed=seed)
        finetune(network, dataset, own, run, validation=validation, options=options, teacher=teacher)
        return load(run).to(next(network.parameters()).device)

    place.require_usable()
    with place.locked():
        place.begin_or_resume(whole, first=whole, read=lambda found: (found, None))
        yield between
