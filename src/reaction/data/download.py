"""Downloads one file: resumes, retries, and checks that what came is what was asked for."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urldefrag

import requests
import urllib3

from reaction.data.unpack import archive_kind
from reaction.files import read_json, sha256, write_json

PAUSES = (1.0, 3.0, 9.0)  # seconds before each new attempt of a transfer that got no further
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two blocks
WEB_PAGE = "a web page instead of the file"


class FetchError(ValueError):
    """An archive is nowhere, or what came is not it. The message says what was tried and what to do."""


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


def download(
    url: str,
    destination: Path | str,
    *,
    size: int | None = None,
    digest: str | None = None,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download to `destination`, resuming `<destination>.part` of an earlier call when the server still has that file.

    Each attempt that brings new bytes renews the supply of `pauses`. Raises FetchError when the server cannot be
    reached or refuses, when attempts run out, and when what came is a web page, is not `size` bytes long or does not
    have the sha256 `digest`.
    """
    transfer = _Transfer(urldefrag(url).url, Path(destination), size, digest)
    transfer.part.parent.mkdir(parents=True, exist_ok=True)
    left, furthest = list(pauses), transfer.have()
    while True:
        try:
            transfer.attempt()
            return transfer.finish()
        except _Interrupted as reason:
            if transfer.have() > furthest:
                left, furthest = list(pauses), transfer.have()
            if not left:
                raise FetchError(f"{reason}; {transfer.have()} bytes are kept for the next run") from None
            print(f"fetch: {reason}; trying again in {left[0]:g} s", flush=True)
            sleep(left.pop(0))


@dataclass
class _Transfer:
    """One file on its way: bytes in `<name>.part`, and beside it which version of which URL they are of."""

    url: str
    destination: Path
    size: int | None
    digest: str | None
    answered: bool = field(default=False, init=False)
    resumed: bool = field(default=False, init=False)

    @property
    def part(self) -> Path:
        return self.destination.with_name(self.destination.name + ".part")

    @property
    def version(self) -> Path:
        return self.destination.with_name(self.destination.name + ".part.json")

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def attempt(self) -> None:
        """Request what is missing and append it. Returns when the server has sent all it announced."""
        try:
            with requests.get(self.url, headers=self._headers(), stream=True, timeout=TIMEOUT) as answer:
                self.answered = True
                if not self._is_whole(answer):
                    self._receive(answer)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            if not self.answered:
                raise FetchError(f"the server cannot be reached ({_cause(error)})") from None
            raise _Interrupted(f"the connection broke ({_cause(error)})") from None
        except requests.RequestException as error:
            raise FetchError(f"cannot be requested ({_cause(error)})") from None

    def _headers(self) -> dict[str, str]:
        """Ask for the rest only if it is the rest of the same version, or if the digest will tell."""
        plain = {"Accept-Encoding": "identity"}
        known = read_json(self.version) if self.version.exists() and self.have() else {}
        if known.get("url") != self.url or not (known.get("validator") or self.digest):
            return plain
        condition = {"If-Range": known["validator"]} if known["validator"] else {}
        return plain | condition | {"Range": f"bytes={self.have()}-"}

    def _is_whole(self, answer: requests.Response) -> bool:
        """Look at the status. True when nothing is missing; raises unless the body is worth reading."""
        if answer.status_code == 416:
            if answer.headers.get("Content-Range", "").endswith(f"/{self.have()}"):
                return True
            self.discard()
            raise _Interrupted("the server has another file than the one begun")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise _Interrupted(f"the server answered {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise FetchError(f"the server answered {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html") and _is_archive_name(self.destination.name):
            raise FetchError(WEB_PAGE)  # before it overwrites what earlier runs have got
        return False

    def _receive(self, answer: requests.Response) -> None:
        start = _range_start(answer) if answer.status_code == 206 else 0
        if start not in (0, self.have()):
            self.discard()
            raise _Interrupted(f"the server sent bytes from {start} on, which were not asked for")
        self.resumed = start > 0
        if not self.resumed:
            write_json(self.version, {"url": self.url, "validator": _validator(answer)})
        announced = answer.headers.get("Content-Length", "")
        total = start + int(announced) if announced.isdecimal() else None
        progress = _Progress(self.destination.name, start, total)
        with open(self.part, "ab" if self.resumed else "wb") as file:
            for block in answer.raw.stream(1 << 20, decode_content=False):
                file.write(block)
                progress.add(len(block))
        if total is not None and self.have() < total:
            raise _Interrupted(f"the server announced {total} bytes and sent {self.have()}")

    def finish(self) -> Path:
        """Give the file its name if it is what was wanted. A resumed file that is not gets one fresh start."""
        try:
            check_content(self.part, size=self.size, digest=self.digest, name=self.destination.name)
        except FetchError as error:
            resumed = self.resumed
            self.discard()
            if resumed:
                raise _Interrupted(f"{error}, after resuming; starting over") from None
            raise
        os.replace(self.part, self.destination)
        self.discard()
        return self.destination

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def check_content(path: Path, *, size: int | None, digest: str | None, name: str | None = None) -> None:
    """Raise FetchError unless the file is what it is called: `name` (its own by default), `size` bytes and sha256.

    Servers answer 200 with a web page for files they no longer have.
    """
    name = name or path.name
    with open(path, "rb") as file:
        start = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise FetchError(WEB_PAGE)
    if size is not None and path.stat().st_size != size:
        raise FetchError(f"{path.stat().st_size} bytes instead of {size}")
    if digest is not None and (actual := sha256(path)) != digest:
        raise FetchError(f"sha256 {actual} instead of {digest}")
    if _is_archive_name(name) and archive_kind(path) is None:
        raise FetchError("no tar, zip or rar archive, though its name says so")


def _is_archive_name(name: str) -> bool:
    return name.lower().endswith((".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip", ".rar"))


def _validator(answer: requests.Response) -> str | None:
    """What identifies this version in If-Range, where weak ETags are not allowed (RFC 9110, 13.1.5)."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _range_start(answer: requests.Response) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else -1


def _cause(error: Exception) -> str:
    """The last words of the innermost error: requests wraps urllib3, which wraps the system's."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rpartition(": ")[2] or type(error).__name__


class _Progress:
    """A line every few seconds: part done, rate, time left."""

    def __init__(self, name: str, done: int, total: int | None, every: float = 5.0) -> None:
        self.name, self.start, self.done, self.total, self.every = name, done, done, total, every
        self.began = self.told = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told >= self.every or self.done == self.total:
            self.told = now
            print(self.line(now - self.began), flush=True)

    def line(self, seconds: float) -> str:
        rate = (self.done - self.start) / max(seconds, 1e-3)
        text = f"fetch: {self.name}: {self.done / 1e6:.1f} MB"
        if self.total is None:
            return f"{text}, {rate / 1e6:.1f} MB/s"
        left = (self.total - self.done) / max(rate, 1.0)
        return (
            f"{text} of {self.total / 1e6:.1f} ({self.done / self.total:.0%}), {rate / 1e6:.1f} MB/s, {left:.0f} s left"
        )
