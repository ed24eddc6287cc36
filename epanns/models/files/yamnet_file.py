"""Files of YAMNet's weights: Google's ``yamnet.h5``, and NumPy arrays in which batch norm is folded."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epanns.atomic import sha256_of
from epanns.audio.frontend import htk_mel_bank
from epanns.errors import CheckpointError
from epanns.labels import LabelSet, yamnet
from epanns.models.families.yamnet import BATCH_NORM_EPSILON
from epanns.models.files.checkpoint import Checkpoint, labels_for
from epanns.models.files.torch_file import DAMAGED, UNVERIFIED, check_archive
from epanns.models.provenance import Operation, Provenance
from epanns.models.spec import LAYOUTS, ModelSpec
from epanns.models.tensors import TensorForm, difference, expected_forms, shortened
from epanns.models.zoo import ZOO
from epanns.safe_text import printable

_REMEDY = "download or copy the whole file again"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NPZ = ".npz"
_SUFFIXES = (".h5", ".hdf5", _NPZ)
_LONGEST_MEMBER = 64 << 20  # bytes of an array of the .npz; the longest true one has 4 MiB

# Arrays of the .npz beside the weights: all may be missing, the first two are compared with ours.
_BESIDE = ("frontend.mel", "frontend.window", "class_mids", "class_names", "provenance")
_FRONT_END_TOLERANCE = 1e-4

# Recorded in config.json, as the assumptions in `released`.
_FOLDED = (
    "batch norms are folded into the kernels of this file, so their statistics are not known: YAMNet tags as ever, "
    "learns with these batch norms as they are, and is recovered after pruning by ls, not by bn"
)


class _Place(NamedTuple):
    """Name of a tensor in a file, and the permutation of its axes that gives ours."""

    name: str
    axes: tuple[int, ...]


def is_yamnet_file(path: Path) -> bool:
    """Return whether a file is HDF5 or an archive of NumPy arrays, by its suffix or content."""
    if path.suffix in _SUFFIXES:
        return True
    with path.open("rb") as file:
        if file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC:
            return True
    return _is_npz(path)


def read_yamnet(
    path: Path, *, sample_rate: int | None = None, head: str | None = None, labels: LabelSet | None = None
) -> Checkpoint:
    """Read ``yamnet.h5`` or the folded ``.npz``; nothing is unpickled, and unknown arrays are refused.

    Args:
        path: The file.
        sample_rate: In Hz; None or YAMNet's 16,000.
        head: None or ``clip``.
        labels: Names of the 521 classes; by default YAMNet's own.

    Raises:
        CheckpointError: If the file is damaged, an array is missing, unknown, misshapen or not finite, or an argument
            is not YAMNet's.
    """
    spec = ZOO["YAMNet"]
    for name, given, own in (("sample_rate", sample_rate, spec.front_end.sample_rate), ("head", head, spec.head)):
        if given not in (None, own):
            raise CheckpointError(f"{path}: {name}={given}: YAMNet has {own}: leave it out")
    labels = labels_for(path, spec, labels)
    folded = _is_npz(path) or path.suffix == _NPZ
    try:
        weights = _npz_weights(path, spec) if folded else _hdf5_weights(path, spec)
    except DAMAGED as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: damaged, or no file of YAMNet ({first_line}): {_REMEDY}") from error
    least = {name: 0 if name.endswith("running_var") else -math.inf for name in weights}
    if broken := [name for name, each in weights.items() if not (each.isfinite() & (each >= least[name])).all()]:
        raise CheckpointError(f"{path}: NaN, infinity or a negative variance in {shortened(broken)}: {_REMEDY}")
    # Missing: the counters of batches and, for folded batch norms, the statistics of the identity. A count of 0 marks
    # statistics that were not measured: `pruning.recovery.batch_norm_reestimation` refuses them.
    values = {"running_mean": 0.0, "running_var": 1.0 - BATCH_NORM_EPSILON, "num_batches_tracked": 0 if folded else 1}
    weights |= {
        name: torch.full(form.shape, values[name.rpartition(".")[2]], dtype=getattr(torch, form.dtype))
        for name, form in expected_forms(spec).items()
        if name not in weights
    }
    provenance = Provenance(
        source=f"{printable(path.name)}, YAMNet{' with batch norm folded' if folded else ''}",
        sha256=sha256_of(path),
        recipe=(Operation("train", {"by": "the publisher of the file"}),),
        assumed=(_FOLDED if folded else UNVERIFIED,),
        n_read=1,
    )
    return Checkpoint(spec, weights, labels, provenance)


def hdf5_places(spec: ModelSpec) -> dict[str, _Place]:
    """Return the data set of each tensor in ``yamnet.h5``, 110 in all.

    Keras keeps convolutions as (rows, columns, in, out), depthwise ones as (rows, columns, channels, 1) and dense
    layers as (in, out).
    """
    places = {}
    for layer, norm in _norm_behind(spec).items():
        where = layer.replace(".", "/")
        is_depthwise = layer.endswith("depthwise_conv")
        kernel, axes = ("depthwise_kernel", (2, 3, 0, 1)) if is_depthwise else ("kernel", (3, 2, 0, 1))
        places[f"{layer}.weight"] = _Place(f"{where}/{where}/{kernel}:0", axes)
        keras = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        places |= {f"{norm}.{own}": _Place(f"{where}/bn/{where}/bn/{name}:0", (0,)) for own, name in keras.items()}
    places["fc_audioset.weight"] = _Place("logits/logits/kernel:0", (1, 0))
    places["fc_audioset.bias"] = _Place("logits/logits/bias:0", (0,))
    return places


def npz_places(spec: ModelSpec) -> dict[str, _Place]:
    """Return the array of each tensor in the folded ``.npz``, 56 in all, in our order of axes."""
    places = {}
    for layer, norm in _norm_behind(spec).items():
        places[f"{layer}.weight"] = _Place(f"{layer}.weight", (0, 1, 2, 3))
        places[f"{norm}.bias"] = _Place(f"{layer}.bias", (0,))
    places["fc_audioset.weight"] = _Place("classifier.weight", (0, 1))
    places["fc_audioset.bias"] = _Place("classifier.bias", (0,))
    return places


def _norm_behind(spec: ModelSpec) -> dict[str, str]:
    """Return each convolution with its batch norm, in forward order."""
    first, *others = LAYOUTS[spec.family]
    pointwise = [layer.rpartition(".")[0] for layer in others]
    convs = [first, *(f"{layer}.{kind}_conv" for layer in pointwise for kind in ("depthwise", "pointwise"))]
    return {conv: conv.removesuffix("conv") + "bn" for conv in convs}


def _expected(places: Mapping[str, _Place], spec: ModelSpec) -> dict[str, TensorForm]:
    """Return the form of each array as the file must have it."""
    ours = expected_forms(spec)
    return {
        place.name: ours[name]._replace(shape=tuple(ours[name].shape[axis] for axis in np.argsort(place.axes)))
        for name, place in places.items()
    }


def _refuse_difference(path: Path, found: Mapping[str, TensorForm], expected: Mapping[str, TensorForm]) -> None:
    if problem := difference(found, expected):
        raise CheckpointError(f"{path} is not a YAMNet: {problem}: {_REMEDY}")


def _permuted(array: NDArray[np.float32], place: _Place) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(place.axes)))


def _hdf5_weights(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    import h5py

    places = hdf5_places(spec)
    with h5py.File(path, "r") as file:
        datasets: dict[str, Any] = {}
        # `visititems` does not follow links to other files; data sets stored in other files are refused below.
        file.visititems(lambda name, item: datasets.update({name: item} if isinstance(item, h5py.Dataset) else {}))
        found = {name: TensorForm(tuple(item.shape or ()), str(item.dtype)) for name, item in datasets.items()}
        _refuse_difference(path, found, _expected(places, spec))
        if elsewhere := [name for name, item in datasets.items() if item.external or item.is_virtual]:
            raise CheckpointError(f"{path}: the data of {shortened(elsewhere)} are in other files: {_REMEDY}")
        return {name: _permuted(datasets[place.name][()], place) for name, place in places.items()}


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGED:
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _npz_weights(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """Read the arrays of an archive after comparing the forms in their headers with those of YAMNet."""
    places = npz_places(spec)
    check_archive(path)
    forms: dict[str, TensorForm] = {}
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.file_size > _LONGEST_MEMBER:
                raise CheckpointError(f"{path}: {name} is longer than any array of YAMNet's: {_REMEDY}")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > member.file_size:
                raise CheckpointError(f"{path}: {name} is no plain array, or shorter than its header states: {_REMEDY}")
            forms[name] = TensorForm(shape, str(dtype))
        weights = {name: form for name, form in forms.items() if name not in _BESIDE}
        _refuse_difference(path, weights, _expected(places, spec))
        for name in forms:
            with archive.open(f"{name}.npy") as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    _check_beside(path, arrays, spec)
    return {name: _permuted(arrays[place.name], place) for name, place in places.items()}


def _check_beside(path: Path, arrays: Mapping[str, NDArray[Any]], spec: ModelSpec) -> None:
    """Compare the front end and the classes in a file with those of YAMNet."""
    window = torch.hann_window(spec.front_end.window_size, dtype=torch.float64).numpy()
    for name, ours in (("frontend.mel", htk_mel_bank(spec.front_end).numpy()), ("frontend.window", window)):
        given = arrays.get(name, ours)
        if given.shape != ours.shape or not (np.abs(given - ours) <= _FRONT_END_TOLERANCE).all():
            raise CheckpointError(f"{path}: {name} of shape {given.shape} is not YAMNet's: {_REMEDY}")
    if "class_mids" in arrays and tuple(map(str, arrays["class_mids"])) != yamnet().mids:
        raise CheckpointError(f"{path}: class_mids are not YAMNet's 521 in AudioSet's order: {_REMEDY}")
