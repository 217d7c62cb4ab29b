"""Private key files: read once, never kept, refused when they are open to everybody or not a key."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetplane.errors import ConfigurationError
from jetplane.wireguard.keys import private_key

KEY = bytes(range(1, 33))
TEXT = b64encode(KEY)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "private.key"
    path.touch(mode=0o600)
    path.write_bytes(TEXT + b"\n")
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \n"])
def test_a_key_is_read_whatever_ends_its_line(file: Path, end: bytes) -> None:
    file.write_bytes(TEXT + end)
    with private_key(file) as key:
        assert key == KEY


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=32, max_size=32).filter(any))
def test_every_key_reads_as_base64_says(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.key"
    path.touch(mode=0o600)
    path.write_bytes(b64encode(raw))
    with private_key(path) as key:
        assert key == raw


def test_a_key_is_overwritten_when_its_borrower_is_done(file: Path) -> None:
    with private_key(file) as key:
        pass
    assert key == bytes(32)


def test_a_key_is_overwritten_when_its_borrower_fails(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), private_key(file) as key:
        _ = 1 / 0
    assert key == bytes(32)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_closed_to_other_users_will_do(file: Path, mode: int) -> None:
    file.chmod(mode)
    with private_key(file) as key:
        assert key == KEY


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601])
def test_a_file_open_to_every_user_is_refused_with_what_to_do(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="open to every user") as error, private_key(file):
        pass
    assert str(file) in str(error.value)
    assert "chmod 600" in error.value.hint


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "expected 44 characters"),
        (b"\n", "expected 44 characters"),
        (b64encode(bytes(31)), "character 43 is not base64"),
        (b64encode(KEY + b"x"), "expected 44 characters"),
        (TEXT + TEXT, "expected 44 characters"),
        (TEXT[:-1] + b"A", "expected 44 characters"),
        (b"-" + TEXT[1:], "character 1 is not base64"),
        (TEXT[:5] + b"\n" + TEXT[6:], "character 6 is not base64"),
        (TEXT[:-2] + b"B=", "last character"),
        (b64encode(bytes(32)), "all zeros"),
        (b"\xff" * 44, "expected 44 characters"),
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why) as error, private_key(file):
        pass
    message = f"{error.value} {error.value.hint}"
    assert str(file) in message
    assert TEXT[:12].decode() not in message
    assert error.value.__cause__ is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.key: private key cannot be read: No such file"):
        private_key(tmp_path / "absent.key").__enter__()


def test_a_directory_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not in a regular file"):
        private_key(tmp_path).__enter__()


def test_a_fifo_does_not_stop_the_node(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="not in a regular file"):
        private_key(tmp_path / "fifo").__enter__()
