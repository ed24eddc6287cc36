"""Downloads against a server on this machine: whole, cut, resumed, wrong, refused, absent."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from epanns.errors import CheckpointError, OutputError
from epanns.models.catalogue import ReleasedFile, released_file, released_files
from epanns.models.download import cache_folder, fetch
from epanns.models.zoo import ZOO

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ROOT = Path(__file__).parents[2]


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`; `requests` notes the Range header of each request.

    Attributes:
        knows_ranges: Whether a Range header is honoured.
        cut_after: Bytes after which the next answer's connection closes.
        says_length: Whether the answer states how long it is.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.requests: list[str | None] = []
        self.knows_ranges = True
        self.cut_after: int | None = None
        self.says_length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth?download=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802 (the base class's name)
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if not self.path.startswith("/weights.pth"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if server.says_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut_after])
        server.cut_after = None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def published(server: Server, **changes: object) -> ReleasedFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = ReleasedFile("weights.pth", "Cnn14", "Cnn14", 0.431, server.url, len(CONTENT), digest, "see the page")
    return replace(file, **changes)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_fetch_downloads_checks_and_renames(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(published(server), tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "cache") == ["weights.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_fetch_downloads_once(server: Server, tmp_path: Path) -> None:
    assert fetch(published(server), tmp_path) == fetch(published(server), tmp_path)
    assert len(server.requests) == 1


def test_cut_connection_keeps_the_part_and_the_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut_after = 700_000
    with pytest.raises(CheckpointError, match=r"the connection (ended after|broke).*; run the command again to go on"):
        fetch(published(server), tmp_path)
    assert names(tmp_path) == ["weights.pth.part"]
    assert (tmp_path / "weights.pth.part").read_bytes() == CONTENT[:700_000]
    seen: list[tuple[int, int | None]] = []
    path = fetch(published(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=700000-"]
    assert seen[0][0] > 700_000
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_complete_part_is_checked_without_asking_the_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_part_the_server_cannot_extend_is_started_again(length: int, server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(bytes(length))
    assert fetch(published(server, bytes=None), tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={length}-", None]


def test_part_longer_than_the_file_is_started_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(bytes(len(CONTENT) + 5))
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sha256": "0" * 64},
            rf"sha256 {hashlib.sha256(CONTENT).hexdigest()}, must be 0{{64}}\) and was deleted: run",
        ),
        ({"bytes": 1000}, r"1,048,576 bytes, must be 1,000\) and was deleted"),
    ],
    ids=["checksum", "length"],
)
def test_other_bytes_than_published_never_get_the_name(
    changes: dict[str, object], message: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"what arrived is not the published file \(" + message):
        fetch(published(server, **changes), tmp_path)
    assert names(tmp_path) == []


def test_file_of_unknown_length_and_checksum_is_accepted_whole(server: Server, tmp_path: Path) -> None:
    unknown = published(server, bytes=None, sha256=None)
    server.cut_after = 5000
    with pytest.raises(CheckpointError, match=r"run the command again"):
        fetch(unknown, tmp_path)
    assert fetch(unknown, tmp_path).read_bytes() == CONTENT


def test_server_that_does_not_say_the_length_is_held_to_the_catalogue(server: Server, tmp_path: Path) -> None:
    server.says_length = False
    server.cut_after = 5000
    with pytest.raises(CheckpointError, match=r"the connection ended after 5,000 of 1,048,576 bytes; run the command"):
        fetch(published(server), tmp_path)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_answer_other_than_the_file_says_what_to_do(server: Server, tmp_path: Path) -> None:
    missing = published(server, url=server.url.replace("weights", "other"))
    with pytest.raises(CheckpointError, match=r"other.pth.*: the server answered 404 Not Found; .*epanns import FILE"):
        fetch(missing, tmp_path)
    assert names(tmp_path) == []


def test_no_network_says_how_to_go_by_hand(server: Server, tmp_path: Path) -> None:
    file = published(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(
        CheckpointError, match=r"no connection \(.*refused\); .*download the file by hand.*epanns import"
    ):
        fetch(file, tmp_path)


def test_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path / 'file'}: cannot be written")):
        fetch(published(server), tmp_path / "file")


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EPANNS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("EPANNS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "epanns-pruning"


def test_catalogue_lists_22_files_of_panns_and_that_of_epanns() -> None:
    *panns, epanns = sorted(released_files(), key=lambda file: file.model == "E-PANNs")
    assert len(panns) == 22
    for file in panns:
        assert file.url == f"https://zenodo.org/record/3987831/files/{file.name}?download=1"
        assert file.name == f"{file.model}_mAP={file.mAP:.3f}.pth"
        assert re.fullmatch("[0-9a-f]{64}", str(file.sha256))
        assert file.bytes
        assert file.network == file.model
    assert epanns.url == "https://zenodo.org/records/7939403/files/checkpoint_closeto_.44.pt?download=1"
    assert (epanns.bytes, epanns.sha256) == (None, None)
    assert {file.network for file in released_files()} <= ZOO.keys()


def test_catalogue_has_the_known_facts_of_cnn14() -> None:
    file = released_file("Cnn14")
    assert file == released_file("Cnn14_mAP=0.431.pth")
    assert file.bytes == 327_428_481
    assert file.sha256 == "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"


def test_manifest_of_the_repository_is_the_one_that_is_installed() -> None:
    manifest = (ROOT / "checkpoints" / "manifest.json").read_text()
    assert manifest == (ROOT / "epanns" / "models" / "released_files.json").read_text()
    assert json.loads(manifest)["format"] == "epanns-released-files/1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Cnn14_mAP=0.432.pth",
            r"neither a file nor a released one \(did you mean 'Cnn14_mAP=0.431.pth'\?\); `epanns m",
        ),
    ],
)
def test_name_that_cannot_be_downloaded_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        released_file(name)
