"""The steps of the experiment: one command each, with the file that a finished step leaves.

Everything is below one folder: ``data/`` (manifests), ``packs/``, ``networks/``, ``scores/`` and ``report/``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from panns_forecast import Hours, alignment, least_squares, packing, scoring, training

HERE = Path(__file__).parent
CLASS_MAP = HERE / "fsd50k_to_audioset.csv"
EPANNS_LAYERS = "conv_block4,conv_block5,conv_block6"  # C7-C12, which E-PANNs prunes
LEAST_SQUARES = ("--recover", "ls", "--fit-to", "dense")

# Options of `epanns prune` for the rows with a MAC budget: the method without labels, compared with E-PANNs' cut.
METHOD = ("--method", "auto")


class Network(NamedTuple):
    """One row of the table.

    Attributes:
        name: Name of its folders.
        title: Name in the table.
        options: Options of `epanns prune`; empty for the unpruned network.
        macs: Approximate fraction of the unpruned network's MACs, for the forecast.
        params: Approximate fraction of its parameters, for the forecast.
    """

    name: str
    title: str
    options: tuple[str, ...]
    macs: float
    params: float


def _networks() -> Iterator[Network]:
    yield Network("unpruned", "Cnn14", (), 1.0, 1.0)
    # Fractions of MACs and parameters that E-PANNs' plan leaves, of the network without front end.
    for ratio, macs, params in ((0.25, 0.78, 0.587), (0.5, 0.62, 0.287), (0.75, 0.52, 0.101)):
        cut = ("--ratio", f"{ratio:g}", "--layers", EPANNS_LAYERS, "--criterion", "l1")
        percent = f"{100 * ratio:.0f}"
        yield Network(f"epanns_{percent}", f"Cnn14, {percent} % of C7-C12", cut, macs, params)
        refitted = (*cut, *LEAST_SQUARES)
        yield Network(f"epanns_{percent}_ls", f"Cnn14, {percent} % of C7-C12, ls", refitted, macs, params)
    for budget in (0.5, 0.25, 0.1):
        percent = f"{100 * budget:.0f}"
        options = ("--target-macs", f"{budget:g}", *METHOD)
        yield Network(f"macs_{percent}", f"Cnn14, {percent} % of the MACs", options, budget, budget)


NETWORKS = tuple(_networks())
UNPRUNED = NETWORKS[0].name


class Protocol(NamedTuple):
    """How clips of a data set are scored.

    Attributes:
        name: Name of the folder of scores.
        options: Options of `epanns evaluate`.
        overlap: Seconds of sound that the network reads for one second of a clip, for the forecast.
    """

    name: str
    options: tuple[str, ...]
    overlap: float = 1.0


@dataclass(frozen=True)
class DataSet:
    """One of the two data sets.

    Attributes:
        name: ``audioset`` or ``fsd50k``, as in `epanns data`.
        root: Folder of the data set.
        options: More options of `epanns data`.
        source: Split from which calibration clips are drawn.
        test_seconds: Length of a row of the packed test clips; longer clips are cut.
        mean_seconds: Mean length of a test clip.
        clips: Number of clips, as published: ``test``, ``train``, ``val``.
        protocols: How its test clips are scored.
        zero_shot: Options to score networks that have AudioSet's classes.
    """

    name: str
    root: Path
    options: tuple[str, ...]
    source: str
    test_seconds: float
    mean_seconds: float
    clips: Mapping[str, int]
    protocols: tuple[Protocol, ...]
    zero_shot: tuple[str, ...] = ()


def audioset(root: Path, lists: Sequence[Path]) -> DataSet:
    """Return AudioSet with its lists of balanced training and evaluation segments."""
    options = tuple(word for path in lists for word in ("--segments", str(path)))
    clips = {"test": 20_371, "train": 22_160, "val": 0}
    return DataSet("audioset", root, options, "balanced_train", 10.0, 10.0, clips, (Protocol("audioset", ()),))


def fsd50k(root: Path) -> DataSet:
    """Return FSD50K, scored at the own length of each clip, and by LEAN's protocol."""
    protocols = (
        Protocol("fsd50k", ("--own-length",)),
        Protocol("fsd50k_windows", ("--window", "1", "--hop", "0.5"), overlap=2.0),
    )
    clips = {"test": 10_231, "train": 36_796, "val": 4_170}
    return DataSet("fsd50k", root, (), "train", 30.0, 9.8, clips, protocols, ("--map", str(CLASS_MAP)))


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        out: Folder of the experiment.
        checkpoint: Released file, or its name, which is downloaded.
        data: The data sets that are at hand.
        device: As in `epanns prune`.
        jobs: Processes that decode and read clips.
        calibration: Number of calibration clips.
        validation: Number of AudioSet's training clips that choose the best step of a fine-tuning.
        finetune: Steps of fine-tuning; 0 for none.
        width: Factor on Cnn14's widths.
        generated: Options of the script that generates data and checkpoint; empty for released ones.
        method: Options of `epanns prune` in the rows with a MAC budget, beside `METHOD`.
    """

    out: Path
    checkpoint: str
    data: tuple[DataSet, ...]
    device: str = "cpu"
    jobs: int = 1
    calibration: int = 400
    validation: int = 2_000
    finetune: int = 0
    width: float = 1.0
    generated: tuple[str, ...] = ()
    method: tuple[str, ...] = ()

    @property
    def checkpoint_gigabytes(self) -> float:
        """Size of the unpruned network on the disk."""
        return 0.323 * self.width**2

    def macs(self, network: Network) -> float:
        """Return a network's MACs as a fraction of those of the released Cnn14."""
        return network.macs * self.width**2


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        command: Arguments; the first is ``epanns``, or a script beside this file.
        product: File that exists when the step is finished; None for a step that is always run.
        hours: Expected time.
        gigabytes: Expected disk space.
    """

    command: tuple[str, ...]
    product: Path | None
    hours: Hours = Hours()
    gigabytes: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the step is finished."""
        return self.product is not None and self.product.exists()


def steps_of(settings: Settings) -> list[Step]:
    """Return all steps in order; a step reads products of earlier steps alone."""
    steps = []
    if settings.generated:
        script = (str(HERE / "panns_generated.py"), *settings.generated, "--width", f"{settings.width:g}")
        steps.append(Step(script, Path(settings.checkpoint)))
    steps += [_manifest(settings, data) for data in settings.data]
    checkpoint = settings.out / "networks" / UNPRUNED
    steps.append(
        Step(
            ("epanns", "import", settings.checkpoint, "--out", str(checkpoint)),
            checkpoint / "config.json",
            Hours(),
            settings.checkpoint_gigabytes,
        )
    )
    steps += _packs(settings)
    steps += [_pruned(settings, network) for network in NETWORKS if network.options]
    for data in settings.data:
        steps += [
            _scored(settings, network, protocol, data, settings.out / "networks" / network.name, data.zero_shot)
            for network in NETWORKS
            for protocol in data.protocols
        ]
        if settings.finetune:
            steps += [step for network in NETWORKS for step in _finetuned(settings, network, data)]
    report = ("epanns", "report", str(settings.out / "scores"), "--quoted", "--out", str(settings.out / "report"))
    return [*steps, Step(report, None)]


def pending(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that are not finished; none if all others are finished and the report is written."""
    left = [step for step in steps if not step.is_done]
    report = Path(steps[-1].command[-1]) / "table.md"
    return [] if left == steps[-1:] and report.exists() else left


def run_steps(steps: Sequence[Step], run: Callable[[Step], None]) -> None:
    """Call `run` with each step that is not finished, in order."""
    for step in pending(steps):
        run(step)


def _manifest(settings: Settings, data: DataSet) -> Step:
    path = settings.out / "data" / f"{data.name}.csv"
    command = ("epanns", "data", data.name, str(data.root), *data.options, "--out", str(path))
    return Step(command, path.with_suffix(".info.json"), Hours(0.02, 0.02))


def _packs(settings: Settings) -> list[Step]:
    """Return the drawing of the calibration clips, and a pack for each set of clips."""
    first = settings.data[0]
    drawn = settings.out / "data" / "drawn.csv"
    manifests = {data.name: settings.out / "data" / f"{data.name}.csv" for data in settings.data}
    command = (str(HERE / "draw_clips.py"), str(manifests[first.name]), "--split", first.source)
    command += ("--calibration", str(settings.calibration))
    command += ("--validation", str(settings.validation if settings.finetune and first.name == "audioset" else 0))
    steps = [Step((*command, "--out", str(drawn)), drawn.with_suffix(".info.json"))]

    def pack(manifest: Path, split: str, name: str, seconds: float, clips: int) -> Step:
        out = settings.out / "packs" / name
        words = ("epanns", "pack", str(manifest), "--split", split, "--seconds", f"{seconds:g}")
        words += ("--sample-rate", "32000", "--jobs", str(settings.jobs), "--out", str(out))
        return Step(words, out / "pack.json", packing(clips * seconds), clips * seconds * 64e3 / 1e9)

    steps.append(pack(drawn, "calibration", "calibration", 10.0, settings.calibration))
    for data in settings.data:
        steps.append(pack(manifests[data.name], "eval", f"{data.name}_eval", data.test_seconds, data.clips["test"]))
        if settings.finetune:
            counts = data.clips
            own = manifests[data.name] if data.name == "fsd50k" else drawn
            names = ("train", "val") if data.name == "fsd50k" else ("training", "validation")
            steps.append(pack(own, names[0], f"{data.name}_train", 10.0, counts["train"]))
            steps.append(pack(own, names[1], f"{data.name}_val", 10.0, counts["val"] or settings.validation))
    return steps


def _pruned(settings: Settings, network: Network) -> Step:
    out = settings.out / "networks" / network.name
    command = ("epanns", "prune", str(settings.out / "networks" / UNPRUNED), *network.options)
    needs_clips = not {"--recover", "--method"}.isdisjoint(network.options)
    if needs_clips:
        command += ("--calibration", str(settings.out / "packs" / "calibration"))
    command += ("--device", settings.device, "--out", str(out))
    if "--method" in command:
        hours = alignment(settings.macs(network), settings.width**2)
        command += settings.method
    else:
        hours = least_squares(settings.calibration) if needs_clips else Hours()
    return Step(command, out / "config.json", hours, settings.checkpoint_gigabytes * network.params)


def _scored(
    settings: Settings,
    network: Network,
    protocol: Protocol,
    data: DataSet,
    checkpoint: Path,
    options: tuple[str, ...] = (),
    *,
    suffix: str = "",
) -> Step:
    out = settings.out / "scores" / protocol.name / f"{network.name}{suffix}"
    command = ("epanns", "evaluate", str(checkpoint), "--data", str(settings.out / "packs" / f"{data.name}_eval"))
    command += (*protocol.options, *options, "--workers", str(settings.jobs if settings.device != "cpu" else 0))
    command += ("--device", settings.device, "--no-scores", "--out", str(out))
    command += ("--name", f"{network.title}, fine-tuned" if suffix else network.title)
    seconds = data.clips["test"] * data.mean_seconds * protocol.overlap
    return Step(command, out / "result.json", scoring(settings.macs(network), seconds))


def _finetuned(settings: Settings, network: Network, data: DataSet) -> Iterator[Step]:
    """Yield the fine-tuning of a network on one data set's training clips, and its scores."""
    # Records are named by the name and the weights of a network; weights may be kept as they were before the training.
    out = settings.out / "finetuned" / data.name / f"{network.name}_finetuned"
    steps = settings.finetune
    packs = settings.out / "packs"
    command = ("epanns", "finetune", str(settings.out / "networks" / network.name), "--preset", "short")
    command += ("--train", str(packs / f"{data.name}_train"), "--val", str(packs / f"{data.name}_val"))
    command += ("--iterations", str(steps), "--warmup-iterations", str(min(100, steps // 10)))
    command += ("--validate-every", str(max(1, steps // 10)), "--device", settings.device)
    command += ("--workers", str(settings.jobs if settings.device != "cpu" else 0))
    if data.name == "audioset":  # the unpruned network has these classes: it is the teacher of all, itself included
        command += ("--teacher", str(settings.out / "networks" / UNPRUNED), "--distil-weight", "0.5")
    hours = training(settings.macs(network), steps, validations=10 * (data.clips["val"] or settings.validation))
    # The run folder holds the best, the last and the averaged weights, and two moments of Adam.
    yield Step(
        (*command, "--out", str(out)), out / "config.json", hours, 5 * settings.checkpoint_gigabytes * network.params
    )
    for protocol in data.protocols:
        yield _scored(settings, network, protocol, data, out, suffix="_finetuned")
