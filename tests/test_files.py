"""Files are absent or whole, whatever happens to their writer; hashes are made of one text per value."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reaction
from reaction.files import atomic, canonical_json, read_json, sha256, write_json, write_text


def start(code: str, *arguments: Path) -> subprocess.Popen:
    """Another Python that runs `code`, with pipes to and from it."""
    environment = os.environ | {"PYTHONPATH": str(Path(reaction.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "new folder/model.pt"
    with atomic(path) as partial:
        partial.write_bytes(b"weights")
        assert not path.exists()
        assert partial.name == path.name, "torch.save writes the name into the file"
        assert os.stat(partial.parent).st_dev == os.stat(path.parent).st_dev
    assert path.read_bytes() == b"weights"
    assert names(path.parent) == ["model.pt"]


def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def fails():
        with atomic(tmp_path / "a.txt") as partial:
            partial.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fails()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from reaction.files import atomic
with atomic(sys.argv[1]) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_no_file_and_the_next_one_sweeps_up(tmp_path):
    for name in ("a[1].txt", "other.txt"):
        assert start(KILLED, tmp_path / name).wait() == -signal.SIGKILL
    assert [name.rpartition("-")[0] for name in names(tmp_path)] == [".writing-a[1].txt", ".writing-other.txt"]
    write_text(tmp_path / "a[1].txt", "whole")
    assert (tmp_path / "a[1].txt").read_text() == "whole"
    assert [name.rpartition("-")[0] or name for name in names(tmp_path)] == [".writing-other.txt", "a[1].txt"]


REWRITING = """
import itertools, sys
from reaction.files import write_text
for letter in itertools.cycle("ab"):
    write_text(sys.argv[1], letter * 300_000)
    print(letter, flush=True)
"""


def test_a_file_that_is_rewritten_is_whole_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "state.txt"
    for delay in (0.001, 0.004, 0.009):
        writer = start(REWRITING, path)
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        assert path.read_text() in ("a" * 300_000, "b" * 300_000)
    write_text(path, "end")
    assert names(tmp_path) == ["state.txt"]


WAITING = """
import sys
from reaction.files import atomic
with atomic(sys.argv[1]) as partial:
    partial.write_text("theirs")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_a_living_writer_is_left_alone_and_the_last_one_wins(tmp_path):
    with start(WAITING, tmp_path / "a.txt") as other:
        assert other.stdout.readline() == b"begun\n"
        with atomic(tmp_path / "a.txt") as partial:
            write_text(tmp_path / "a.txt", "nested")
            partial.write_text("ours")
        assert (tmp_path / "a.txt").read_text() == "ours"
        other.stdin.close()
        assert other.wait() == 0
    assert (tmp_path / "a.txt").read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


def test_canonical_json_is_one_text_for_one_value():
    value = {"b": [1, 2.5, None, True], "a": {"ü": "x", "k": 1e-3}}
    same = {"a": {"k": 0.001, "ü": "x"}, "b": (1, 2.5, None, True)}
    assert canonical_json(value) == canonical_json(same) == '{"a":{"k":0.001,"ü":"x"},"b":[1,2.5,null,true]}'
    assert canonical_json({"a": 1}) != canonical_json({"a": 1.0}), "a parameter's type is part of it"
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})
    with pytest.raises(TypeError):
        canonical_json({"a": Path("x")})


def test_json_files_round_trip_to_the_same_bytes(tmp_path):
    value = {"names": ["Björn", "a\nb"], "count": 3, "rate": 0.1, "none": None}
    write_json(tmp_path / "a.json", value)
    write_json(tmp_path / "b.json", dict(reversed(value.items())))
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("inf"))
    assert read_json(tmp_path / "a.json") == value


def test_text_is_utf_8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "ü\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc\n"


def test_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = bytes(range(256)) * 10_000
    (tmp_path / "large").write_bytes(large)
    assert sha256(tmp_path / "large") == hashlib.sha256(large).hexdigest()
