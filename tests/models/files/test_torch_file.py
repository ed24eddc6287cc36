"""Damage to a file of weights is found before its tensors are read, in bounded memory."""

import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from epanns.errors import CheckpointError
from epanns.models.files.load import load
from epanns.models.files.released import read_released, to_panns
from epanns.models.files.torch_file import UNVERIFIED, check_archive
from epanns.models.zoo import build_model


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return to_panns(build_model("LeeNet11", num_classes=2, width=0.02))["model"]


@pytest.fixture(scope="module")
def whole(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "whole.pth"
    torch.save({"model": weights}, path)
    return path


@given(st.data())
def test_flipped_bits_are_found_or_harmless(whole: Path, weights: dict[str, Tensor], data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = whole.with_name("flipped.pth")
    path.write_bytes(content)
    try:
        found = read_released(path).weights
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:  # bits of the padding between records
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_a_record_with_a_flipped_bit_is_named(whole: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(whole.read_bytes())
    content[record.header_offset + 200 + record.file_size // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_released(tmp_path / "a.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'a.pth'}: damaged (Bad CRC-32 for file {record.filename!r}): download or copy the whole file "
        "again"
    )


@pytest.fixture
def without_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("without_checksums")
def test_a_file_without_checksums_is_recorded_as_unverified(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "zip.pth")
    assert not check_archive(tmp_path / "zip.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("zip.pth", "old.pth"):
        assert read_released(tmp_path / name, sample_rate=32_000).provenance.assumed == (UNVERIFIED,)


def test_a_verified_file_has_no_such_note(whole: Path) -> None:
    assert read_released(whole, sample_rate=32_000).provenance.assumed == ()


def packed(path: Path) -> Path:
    """Compress the records of an archive into another one beside it."""
    other = path.with_name(f"packed-{path.name}")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as compressed:
        for record in archive.infolist():
            compressed.writestr(record.filename, archive.read(record))
    return other


def test_a_file_that_was_packed_again_is_read(whole: Path, weights: dict[str, Tensor]) -> None:
    found = read_released(packed(whole)).weights
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("name", ["a.pth", "a.npz"])
def test_a_bomb_is_refused_before_it_is_unpacked(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as bomb, bomb.open("x.npy", "w") as record:
        for _ in range(70):
            record.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="would take 73,400,320 bytes, must be at most 67,108,864 in"):
            load(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_that_names_bytearray_is_refused(zipped: bool, tmp_path: Path) -> None:
    torch.save({"a": bytearray(b"x")}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"a.pth: refused .* it names builtins.bytearray, which a few bytes of a"):
        load(tmp_path / "a.pth")


def test_a_record_that_is_called_a_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))  # of the last but one record
    content[entry + 38] |= 0x10
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a.pth: damaged \(record 'whole/version' is called a folder\)"):
        check_archive(tmp_path / "a.pth")


def test_two_records_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("a/data.pkl", b"y")
    with pytest.raises(CheckpointError, match=r"a.pth: damaged \(two of its 2 records have one name\): download or"):
        check_archive(tmp_path / "a.pth")
