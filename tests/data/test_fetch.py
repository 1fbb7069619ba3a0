"""Downloads against a server on loopback that misbehaves, and where archives are taken from."""

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reaction.cli import main
from reaction.data.download import FetchError, download
from reaction.data.fetch import fetch_dataset
from reaction.files import write_json

BODY = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """Answers each request as the next function in `plan` does, the last one for ever; keeps what was asked."""

    plan: list[Callable[["Server", BaseHTTPRequestHandler], None]]
    body: bytes = BODY
    etag: str | None = '"one"'
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers))
        step = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        step(self, handler)

    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def start(*plan: Callable, **keywords) -> Server:
        server = Server(list(plan), **keywords)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(listener)
        server.url = f"http://127.0.0.1:{listener.server_port}/clips.bin"
        return server

    yield start
    for listener in running:
        listener.shutdown()
        listener.server_close()


def respond(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: object) -> None:
    handler.send_response(status)
    for name, value in ({"Content_Length": len(body)} | headers).items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def send(server: Server, handler: BaseHTTPRequestHandler, *, cut: int | None = None, honest: bool = True) -> None:
    """The body or the range asked for, as a good server does it; cut off after `cut` bytes."""
    asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and honest else 0
    if handler.headers.get("If-Range", server.etag) != server.etag:
        start = 0
    size = len(server.body)
    if start >= size:
        return respond(handler, 416, Content_Range=f"bytes */{size}")
    headers = {"Content_Length": size - start} | ({"ETag": server.etag} if server.etag else {})
    if start:
        headers["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
    return respond(handler, 206 if start else 200, server.body[start:][:cut], **headers)


def good(server, handler):
    send(server, handler)


def drops(server, handler):
    send(server, handler, cut=300_000)


def ignores_range(server, handler):
    send(server, handler, honest=False)


def drops_and_ignores_range(server, handler):
    send(server, handler, cut=300_000, honest=False)


def redirects(server, handler):
    respond(handler, 302, Location="/elsewhere/clips.bin")


def busy(server, handler):
    respond(handler, 503)


def gone(server, handler):
    respond(handler, 404)


def web_page(server, handler):
    respond(handler, 200, b"\n<!DOCTYPE html><title>We have moved</title>", Content_Type="text/html; charset=utf-8")


def announces_too_much(server, handler):
    respond(handler, 200, server.body, Content_Length=len(server.body) + 1000)


def changes(server, handler):
    server.body, server.etag = BODY[::-1], '"two"'
    send(server, handler)


@dataclass
class Pauses:
    """Stands in for time.sleep."""

    taken: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Path]:
    def get(server: Server, name: str = "clips.bin", **keywords) -> Path:
        keywords = {"sleep": Pauses()} | keywords
        return download(server.url, tmp_path / "downloads" / name, **keywords)

    return get


def left_over(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir())


def test_a_whole_file(serve, get):
    path = get(serve(good), size=len(BODY), digest=DIGEST)
    assert path.read_bytes() == BODY
    assert left_over(path) == ["clips.bin"]


def test_dropped_connections_are_resumed(serve, get):
    server, pauses = serve(drops, drops, good), Pauses()
    assert get(server, sleep=pauses).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-", "bytes=600000-"]
    assert [request.get("If-Range") for request in server.requests] == [None, '"one"', '"one"']
    assert pauses.taken == [1.0, 1.0], "an attempt that got further renews the pauses"


def test_a_killed_download_is_resumed_by_the_next_run(serve, get, tmp_path):
    server = serve(drops, good)
    with pytest.raises(FetchError, match=r"connection broke.*300000 bytes are kept"):
        get(server, pauses=())
    assert left_over(tmp_path / "downloads/x") == ["clips.bin.part", "clips.bin.part.json"]
    assert get(server).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-"]


def test_a_server_that_ignores_ranges_starts_over(serve, get):
    server = serve(drops, ignores_range)
    assert get(server).read_bytes() == BODY


def test_a_server_that_never_gets_further_is_given_up(serve, get):
    server, pauses = serve(drops_and_ignores_range), Pauses()
    with pytest.raises(FetchError, match="connection broke"):
        get(server, sleep=pauses)
    assert pauses.taken == [1.0, 3.0, 9.0]


def test_content_that_changed_meanwhile_is_not_mixed(serve, get):
    server = serve(drops, changes)
    assert get(server).read_bytes() == BODY[::-1]


def test_without_a_validator_nothing_is_resumed_unless_a_digest_tells(serve, get, tmp_path):
    server = serve(drops, good, etag=None)
    assert get(server).read_bytes() == BODY
    assert server.ranges() == [None, None]
    server = serve(drops, good, etag=None)
    assert get(server, "second.bin", digest=DIGEST).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-"]


def test_a_wrong_digest_after_resuming_gets_one_fresh_start(serve, get):
    def swaps(server, handler):
        server.body = BODY[::-1]
        send(server, handler)

    def restores(server, handler):
        server.body = BODY
        send(server, handler)

    server = serve(drops, swaps, restores)
    assert get(server, digest=DIGEST).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-", None]


def test_a_part_that_is_whole_already(serve, get, tmp_path):
    server = serve(announces_too_much, good)
    assert get(server, digest=DIGEST).read_bytes() == BODY


def test_an_announced_length_that_never_comes(serve, get):
    with pytest.raises(FetchError, match=r"connection broke|announced"):
        get(serve(announces_too_much))


def test_redirects_are_followed_and_resumed(serve, get):
    server = serve(redirects, drops, redirects, good)
    assert get(server).read_bytes() == BODY
    assert server.ranges()[-1] == "bytes=300000-"


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(serve, get):
    assert get(serve(busy, busy, good)).read_bytes() == BODY
    server = serve(gone)
    with pytest.raises(FetchError, match="answered 404"):
        get(server, "gone.bin")
    assert len(server.requests) == 1


def test_a_web_page_is_no_archive(serve, get, tmp_path):
    server = serve(web_page)
    with pytest.raises(FetchError, match="a web page instead"):
        get(server)
    with pytest.raises(FetchError, match="a web page instead"):
        get(server, "clips.zip")
    assert not list((tmp_path / "downloads").iterdir())


def test_a_web_page_does_not_cost_what_was_got(serve, get, tmp_path):
    server = serve(drops, web_page, good)
    with pytest.raises(FetchError):
        get(server, "clips.zip", pauses=())
    with pytest.raises(FetchError, match="a web page"):
        get(server, "clips.zip")
    assert (tmp_path / "downloads/clips.zip.part").stat().st_size == 300_000


def test_lies_about_the_kind_the_size_and_the_digest(serve, get, tmp_path):
    with pytest.raises(FetchError, match="no tar, zip or rar archive"):
        get(serve(good), "clips.zip")
    with pytest.raises(FetchError, match=f"{len(BODY)} bytes instead of 7"):
        get(serve(good), size=7)
    with pytest.raises(FetchError, match=f"sha256 {DIGEST} instead of 00"):
        get(serve(good), digest="0" * 64)
    assert not list((tmp_path / "downloads").iterdir())


def test_nobody_there(serve, get):
    pauses = Pauses()
    with pytest.raises(FetchError, match=r"cannot be reached .*refused"):
        get(Server([good], url="http://127.0.0.1:9/clips.bin"), sleep=pauses)
    assert pauses.taken == [], "a server that is not there is not waited for"


def test_progress_says_rate_and_time_left(serve, get, capsys):
    get(serve(good))
    assert re.search(r"fetch: clips\.bin: 1\.0 MB of 1\.0 \(100%\), .* MB/s, 0 s left", capsys.readouterr().out)


# Where archives are taken from.


def tar_of(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


CLIPS = {"clips/wave/a.avi": b"a", "clips/wave/b.avi": b"bb"}
VIDEOS = tar_of(CLIPS)


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Callable[..., Path]:
    """The folder of a dataset to fetch; keywords change the archive of its videos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REACTION_MIRROR", raising=False)

    def dataset(*more: dict, **keywords) -> Path:
        archive = {"name": "clips.tar", "alternates": ["small.tar", "unpacked"], "urls": [], "page": "http://page"}
        archive |= {"bytes": None, "sha256": None, "into": "videos"} | keywords
        config = {"dataset": "waves", "source": "archives", "mirror": "sea", "archives": [archive, *more]}
        write_json("results/waves/config.json", {"config": config, "inputs": {}})
        return Path("results/waves")

    return dataset


def put(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def test_the_users_own_archive_comes_first(dataset, monkeypatch):
    folder = dataset()
    put("downloads/waves/small.tar", VIDEOS)
    put("mirror/sea/clips.tar", b"not looked at")
    monkeypatch.setenv("REACTION_MIRROR", "mirror")
    fetch_dataset(folder, Path("downloads"))
    a, b = (hashlib.sha256(data).hexdigest() for data in (b"a", b"bb"))
    expected = f"path,bytes,sha256\nclips/wave/a.avi,1,{a}\nclips/wave/b.avi,2,{b}\n"
    assert (folder / "videos.csv").read_text() == expected
    assert (folder / "videos/clips/wave/b.avi").read_bytes() == b"bb"
    source = json.loads((folder / "sources.json").read_text())["archives"]["clips.tar"]
    assert source == {"file": "small.tar", "bytes": len(VIDEOS), "sha256": hashlib.sha256(VIDEOS).hexdigest()}


def test_a_folder_made_from_one_archive_is_not_filled_with_the_videos_of_another(dataset):
    folder = dataset()
    put("downloads/waves/clips.tar", VIDEOS)
    fetch_dataset(folder, Path("downloads"))
    put("downloads/waves/clips.tar", tar_of(dict(reversed(CLIPS.items()))))
    fetch_dataset(folder, Path("downloads"))
    assert (folder / "videos.csv").exists(), "the same files packed in another way"
    put("downloads/waves/clips.tar", tar_of(CLIPS | {"clips/wave/a.avi": b"A"}))
    with pytest.raises(FetchError, match=r"was made from clips.tar \(\w{12}\); now there is clips.tar \(\w{12}\)"):
        fetch_dataset(folder, Path("downloads"))
    assert not (folder / "videos.csv").exists(), "which says that the folder is whole"


def test_the_mirror_may_hold_folders_and_plain_files(dataset, monkeypatch):
    lists = {"name": "boxes.pkl", "page": "http://page", "into": "lists"}
    folder = dataset(lists)
    put("mirror/sea/unpacked/wave/a.avi", b"a")
    put("mirror/sea/boxes.pkl", b"pickled")
    monkeypatch.setenv("REACTION_MIRROR", "mirror")
    fetch_dataset(folder, Path("downloads"))
    assert (folder / "videos/unpacked/wave/a.avi").read_bytes() == b"a"
    assert (folder / "lists/boxes.pkl").read_bytes() == b"pickled"
    assert not Path("downloads").exists()


def test_urls_are_tried_one_after_the_other(dataset, serve):
    dead, alive = serve(gone), serve(good, body=VIDEOS)
    digest = hashlib.sha256(VIDEOS).hexdigest()
    alternate = alive.url.replace("clips.bin", "other.tar") + f"#sha256={digest}"
    folder = dataset(urls=[dead.url, alternate], sha256="0" * 64)
    fetch_dataset(folder, Path("downloads"))
    assert (folder / "videos/clips/wave/a.avi").read_bytes() == b"a"
    fetch_dataset(folder, Path("downloads"))
    assert len(alive.requests) == 1, "what was downloaded once is taken from there"


def test_nowhere_says_what_was_tried_and_what_to_do(dataset, serve, monkeypatch):
    dead, lying = serve(gone), serve(web_page)
    folder = dataset({"name": "boxes.pkl", "page": "http://second", "into": "lists"}, urls=[dead.url, lying.url])
    with pytest.raises(FetchError) as raised:
        fetch_dataset(folder, Path("downloads"))
    message = str(raised.value)
    assert "clips.tar is nowhere" in message
    assert "downloads/waves/ has none of clips.tar, small.tar, unpacked" in message
    assert f"{dead.url}: the server answered 404" in message
    assert f"{lying.url}: a web page" in message
    assert "REACTION_MIRROR names no mirror" in message
    assert "Get it from http://page and put it here: downloads/waves/clips.tar\n" in message
    assert "Get it from http://second and put it here: downloads/waves/boxes.pkl\n" in message, "all at once"
    assert not (folder / "videos.csv").exists()


def test_a_wrong_file_of_the_users_is_named(dataset):
    folder = dataset(sha256="0" * 64)
    put("downloads/waves/clips.tar", VIDEOS)
    with pytest.raises(FetchError, match=r"downloads/waves/clips\.tar: sha256 .* instead of 000.*Delete it"):
        fetch_dataset(folder, Path("downloads"))


def test_a_kill_while_unpacking_leaves_nothing_that_looks_whole(dataset, monkeypatch):
    folder = dataset()
    put("downloads/waves/clips.tar", VIDEOS)
    fetch_dataset(folder, Path("downloads"))
    put("results/waves/videos/stale.avi", b"old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reaction.data.fetch.unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_dataset(folder, Path("downloads"))
    assert not (folder / "videos.csv").exists()
    fetch_dataset(folder, Path("downloads"))
    assert "stale" not in (folder / "videos.csv").read_text()


def content(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("function", "call"),
    [("reaction.data.unpack._write", 2), ("pathlib.Path.rename", 2), ("reaction.data.fetch.sha256", 3)],
    ids=["while unpacking", "while renaming", "while listing"],
)
def test_a_killed_fetch_is_made_good_by_the_next(dataset, killed, function, call):
    folder = dataset()
    put("downloads/waves/clips.tar", VIDEOS)
    killed("reaction.data.fetch.fetch_dataset", function, call, folder)
    assert not (folder / "videos.csv").exists()
    fetch_dataset(folder)
    after = content(folder)
    assert sorted(after) == ["config.json", "sources.json", "videos.csv", *map("videos/{}".format, sorted(CLIPS))]
    fetch_dataset(folder)
    assert content(folder) == after


def test_the_hints_say_where_archives_may_be(dataset, monkeypatch, serve):
    """config.json's `config` is what the folder's name is made of; places and URLs stand beside it."""
    alive = serve(good, body=VIDEOS)
    archive = {"name": "clips.tar", "sha256": hashlib.sha256(VIDEOS).hexdigest(), "into": "videos"}
    config = {"dataset": "waves", "source": "archives", "archives": [archive]}
    found = archive | {"page": "http://page", "urls": [alive.url], "alternates": ["small.tar"], "bytes": len(VIDEOS)}
    write_json("results/waves/config.json", {"config": config, "hints": {"mirror": "sea", "archives": [found]}})
    fetch_dataset("results/waves")
    from_url = content(Path("results/waves"))
    assert from_url["videos/clips/wave/b.avi"] == b"bb"
    assert Path("downloads/waves/clips.bin").is_file()
    Path("downloads/waves/clips.bin").unlink()
    put("mirror/sea/small.tar", VIDEOS)
    monkeypatch.setenv("REACTION_MIRROR", "mirror")
    fetch_dataset("results/waves")
    assert len(alive.requests) == 1, "the mirror comes before the server"
    assert content(Path("results/waves"))["videos.csv"] == from_url["videos.csv"]


def test_the_command_tells_what_to_do_without_a_traceback(dataset, capsys):
    assert main(["fetch", str(dataset(urls=["http://127.0.0.1:9/clips.tar"]))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("reaction fetch: clips.tar is nowhere to be had")
    assert "put it here: downloads/waves/clips.tar" in error


def test_a_generated_dataset_needs_no_archive(tmp_path):
    generator = {"videos": 18, "width": 64, "height": 48, "frames": [6, 8], "actor": [14, 18], "groups": 3}
    write_json(tmp_path / "config.json", {"config": {"dataset": "toy", "source": "generated", "generator": generator}})
    put(str(tmp_path / "videos/stale.avi"), b"from a run that was killed")
    fetch_dataset(tmp_path)
    rows = (tmp_path / "videos.csv").read_text().splitlines()
    assert len(rows) == 1 + 18
    assert (tmp_path / "lists/official.csv").is_file()


def test_a_url_with_braces_is_a_folder_of_parts(tmp_path, monkeypatch, serve):
    """Three archives behind one URL; they are unpacked where a user's own folder would have been taken."""
    monkeypatch.chdir(tmp_path)
    bodies = (tar_of({f"{name}.mp4": b"clip"}) for name in "abc")

    def part(server, handler):
        respond(handler, 200, next(bodies))

    url = serve(part).url.replace("clips.bin", "{val/part_{0..1}.tar,more.tar}")
    archives = [{"name": "val", "page": "https://example.org", "urls": [url]}]
    write_json("videos/config.json", {"config": {"dataset": "toy", "source": "archives", "archives": archives}})
    fetch_dataset("videos")
    rows = Path("videos/videos.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["val/more/b.mp4", "val/part_0/a.mp4", "val/part_1/c.mp4"]
    assert sorted(path.name for path in Path("downloads/toy/val").iterdir()) == ["more.tar", "part_0.tar", "part_1.tar"]
