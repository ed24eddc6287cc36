import json

import h5py
import numpy as np

from epanns import atomic
from epanns.data.verification import verify_pack


def test_a_whole_pack_has_no_problems_and_every_clip_is_counted(made):
    seen = []
    assert verify_pack(made / "pack", progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(done, 20) for done in range(1, 21)]


def test_a_damaged_clip_is_listed_and_the_others_are_still_checked(own):
    for name, row in (("shard-00000.h5", 2), ("shard-00002.h5", 3)):
        path = own / "pack" / name
        with h5py.File(path) as file:
            place = file["waveform"].id.get_chunk_info(row).byte_offset
        content = bytearray(path.read_bytes())
        content[place + 9] ^= 4
        path.write_bytes(content)
    problems = verify_pack(own / "pack")
    assert len(problems) == 4
    assert "shard-00000.h5: its sha256 is not the one in pack.json: the file has changed" in problems[0]
    assert problems[1].startswith("clip 'clip-000002.wav': ")
    assert problems[3].startswith("clip 'clip-000019.wav': ")


def test_a_cut_shard_is_listed_and_the_others_are_still_checked(own):
    path = own / "pack" / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    (own / "pack" / "shard-00002.h5").unlink()
    problems = verify_pack(own / "pack")
    assert len(problems) == 3
    assert "the file has changed" in problems[0]
    assert "shard-00001.h5: file: " in problems[1]
    assert "shard-00002.h5: this file of the pack is missing" in problems[2]


def test_sound_in_the_padding_is_found(own):
    path = own / "pack" / "shard-00000.h5"
    with h5py.File(path, "r+") as file:
        file["n_samples"][0] = 10
    update_checksum(own / "pack", 0)
    (problem,) = verify_pack(own / "pack")
    assert "row 0 has sound after its 10 samples" in problem


def update_checksum(pack, number):
    info = json.loads((pack / "pack.json").read_text())
    info["shards"][number]["sha256"] = atomic.sha256_of(pack / info["shards"][number]["file"])
    (pack / "pack.json").write_text(json.dumps(info))


def test_an_id_in_two_shards_is_found(own):
    with h5py.File(own / "pack" / "shard-00001.h5", "r+") as file:
        file["audio_name"][0] = np.array(b"clip-000000.wav", file["audio_name"].dtype)
    update_checksum(own / "pack", 1)
    (problem,) = verify_pack(own / "pack")
    assert problem.endswith("clip 'clip-000000.wav' is in shard-00000.h5 too; pack again")


def test_files_that_do_not_belong_or_are_missing_are_found(own):
    (own / "pack" / "shard-00009.h5").touch()
    (own / "pack" / "journal.jsonl").unlink()
    problems = verify_pack(own / "pack")
    assert len(problems) == 2
    assert "shard-00009.h5: is no part of the pack; remove it" in problems[0]
    assert "journal.jsonl: is missing; copy the pack again or pack again" in problems[1]


def test_a_list_of_rejects_of_another_length_is_found(own):
    with (own / "pack" / "rejects.csv").open("a") as file:
        file.write("x,y,z\n")
    (problem,) = verify_pack(own / "pack")
    assert "rejects.csv: lists 1 clips, pack.json counts 0 rejected" in problem


def test_what_is_no_pack_is_one_problem(tmp_path):
    (problem,) = verify_pack(tmp_path)
    assert "has no pack.json, so it is no pack" in problem
