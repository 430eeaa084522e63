"""ZIP files from outside: bombs, lies and odd names are refused, and no file appears outside of the folder."""

import io
import stat
import struct
import zipfile

import pytest

from apps.http import unpacking
from apps.http.unpacking import ZipError, unpack


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer


def info(name: str, mode: int = 0, **attributes: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    for key, value in attributes.items():
        setattr(member, key, value)
    return member


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path / "a" / "b"


def test_regular_files_and_folders_are_unpacked_and_counted(folder):
    taken: list[int] = []
    content = packed(("series/1.dcm", b"one"), ("series/", b""), ("é.nii.gz", b"x" * 3_000_000))
    unpack(content, folder, taken.append)
    assert (folder / "series" / "1.dcm").read_bytes() == b"one"
    assert (folder / "é.nii.gz").stat().st_size == 3_000_000
    assert sum(taken) == 3_000_003


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (io.BytesIO(b""), "damaged"),
        (io.BytesIO(b"nonsense" * 100), "damaged"),
        (packed(("../evil", b"x")), "cannot be taken"),
        (packed(("a/../../evil", b"x")), "cannot be taken"),
        (packed(("/etc/evil", b"x")), "cannot be taken"),
        (packed(("a\\b", b"x")), "cannot be taken"),
        (packed(("C:evil", b"x")), "cannot be taken"),
        (packed(("a\nb", b"x")), "cannot be taken"),
        (packed(("a//b", b"x")), "cannot be taken"),
        (packed(("x" * 300, b"x")), "cannot be taken"),
        (packed(("/".join("x" * 20), b"x")), "cannot be taken"),
        (packed((info("link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "not a regular file"),
        (packed((info("pipe", stat.S_IFIFO), b"")), "not a regular file"),
        (packed((info("device", stat.S_IFCHR), b"")), "not a regular file"),
        (packed(("a", b"x"), ("A", b"y")), "same name twice"),
        (packed(("a", b"x"), ("a/b", b"y")), "both a file and a folder"),
        (packed(("a", b"x"), method=zipfile.ZIP_LZMA), "other than deflate"),
        (packed(("zeros", bytes(70 << 20))), "200 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_refused_with_the_reason(folder, content, words):
    with pytest.raises(ZipError, match=words):
        unpack(content, folder, lambda size: None)
    assert {path.name for path in folder.parent.parent.rglob("*")} <= {"a", "b"} | (
        {"a", "b"} if "both" in words else set()
    )


def test_too_many_and_too_large_are_refused_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST", 10)
    monkeypatch.setattr(unpacking, "LARGEST", 1000)
    with pytest.raises(ZipError, match="has 11 files"):
        unpack(packed(*((str(number), b"") for number in range(11))), folder, lambda size: None)
    with pytest.raises(ZipError, match="at most 0 are taken"):
        unpack(packed(("a", bytes(600)), ("b", bytes(600))), folder, lambda size: None)
    assert not list(folder.iterdir())


def test_a_long_list_of_files_is_not_read(folder):
    """Read as a whole, it would take far more memory than the file has bytes."""
    with pytest.raises(ZipError, match="list of files is too long"):
        unpack(packed(*((f"{number:0150d}", b"") for number in range(22_000))), folder, lambda size: None)


@pytest.mark.parametrize("claimed", [1, 1000, 4_000_000_000])
def test_a_header_that_lies_about_the_size_is_found_out(folder, claimed):
    """What is written is counted, and ends where the header says."""
    buffer = packed(("zeros", bytes(5_000_000)))
    data = bytearray(buffer.getvalue())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(signature) + offset
        data[start : start + 4] = struct.pack("<I", claimed)
    taken: list[int] = []
    with pytest.raises(ZipError):
        unpack(io.BytesIO(bytes(data)), folder, taken.append)
    assert sum(taken) <= 5_000_000


def test_an_encrypted_file_is_refused(folder):
    data = bytearray(packed(("a", b"x")).getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(ZipError, match="encrypted"):
        unpack(io.BytesIO(bytes(data)), folder, lambda size: None)
