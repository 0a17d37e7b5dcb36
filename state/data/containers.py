"""What a file is wrapped in: compression and text encodings, told by content, taken off as a stream."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from reflectune.state.errors import DatasetError
from reflectune.state.text import shorten

__all__ = ["CHUNK", "Text", "Unpacked"]

CHUNK = 2**16  # characters or bytes of a file read at once


def _open_zstd(file: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


# How compressed bytes begin, what that is, and what decompresses them.
_COMPRESSED: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"\x28\xb5\x2f\xfd": ("zstd", _open_zstd),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"BZh": ("bzip2", bz2.open),
}
# Frames that zstd skips, with which what pzstd writes begins.
_COMPRESSED |= {bytes([mark]) + b"\x2a\x4d\x18": ("zstd", _open_zstd) for mark in range(0x50, 0x60)}

# How the bytes of what holds no rows begin, what that is, and what to do.
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"SQLite format 3\x00": ("an SQLite database", "write the table out as CSV"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "get that with `git lfs pull`"),
}
_TAR = (257, b"ustar")  # where a tar archive says so

# UTF-32 first: its mark of little-endian order begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Encodings that are worth a guess, by names that Python and iconv share.
_GUESSES = (
    "cp1252", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp850",
    "cp932", "cp949", "big5", "gb18030", "euc-jp", "koi8-r",
)  # fmt: skip


class Unpacked(io.RawIOBase):
    """The bytes of a file, without compression; it counts the bytes and lines that it has given.

    Reading raises a DatasetError where an archive is damaged or breaks off.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name, self.bytes, self.lines = name, 0, 0
        self._file = file
        self._stream: Any = file
        beginning = file.read(max(map(len, _COMPRESSED)))
        file.seek(0)
        found = (each for magic, each in _COMPRESSED.items() if beginning.startswith(magic))
        self.compression, unpack = next(found, ("", None))
        if unpack:
            self._stream = unpack(file)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there is something left."""
        try:
            found = self._stream.read1(len(buffer))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno:
                raise  # not what it holds is at fault, but the disk
            if "too much memory" in str(error):  # zstd's words
                raise DatasetError(
                    f"{self.name}: its zstd archive refers back farther than is read here; "
                    "unpack it with `zstd -d --long=31`"
                ) from error
            raise DatasetError(
                f"{self.name}: its {self.compression} archive breaks off or is damaged, in or after line "
                f"{self.lines + 1} of what it holds: {shorten(error)}; fetch or write it again"
            ) from error
        buffer[: len(found)] = found
        self.bytes += len(found)
        self.lines += found.count(b"\n")
        return len(found)

    def close(self) -> None:
        """Close the file, and let go of what decompresses it."""
        self._stream.close()
        self._file.close()
        super().close()


class Text(io.TextIOWrapper):
    """The text of a file: UTF-8, or else UTF-16 or UTF-32 with a byte order mark.

    Used as a context; what is no text raises a DatasetError at its beginning or end.
    """

    def __init__(self, path: Path, name: str, newline: str) -> None:
        self._unpacked = Unpacked(path.open("rb"), name)
        self._bytes = io.BufferedReader(self._unpacked, CHUNK)
        super().__init__(self._bytes, encoding=_find_encoding(self._bytes.peek(512), name), newline=newline)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Close the file; of bytes that are no text, say where they are and what they may be."""
        problem = self._explain(error) if isinstance(error, UnicodeDecodeError) else None
        super().__exit__(kind, error, trace)
        if problem:
            raise problem from error

    def _explain(self, error: UnicodeDecodeError) -> DatasetError:
        rest = error.object[error.start :]
        rest += self._bytes.peek()  # what was read of the file from there on
        line = self._unpacked.lines - rest.count(b"\n") + 1
        byte = self._unpacked.bytes - len(rest)
        where = f"{self._unpacked.name}: line {line} (byte {byte}, 0x{rest[0]:02x})"
        if error.encoding != "utf-8":
            return DatasetError(f"{where}: not {error.encoding}, as which it begins; write it anew as UTF-8")
        if _is_damaged_utf8(error.object):
            return DatasetError(
                f"{where}: UTF-8 but for what stands here; repair it, or leave such bytes out with "
                "`iconv -c -f utf-8 -t utf-8`"
            )
        guess = _guess(error.object)
        if guess is None:
            return DatasetError(f"{where}: neither UTF-8 text nor Parquet; save it as one of these")
        around = error.object[max(0, error.start - 20) : error.start + 20]
        shown = " ".join(around.decode(guess, "replace").split())
        return DatasetError(
            f'{where}: not UTF-8, but likely {guess}, which reads "{shown}" here; '
            f"convert it with `iconv -f {guess} -t utf-8`"
        )


def _find_encoding(beginning: bytes, name: str) -> str:
    for magic, (what, advice) in _FOREIGN.items():
        if beginning.startswith(magic):
            raise DatasetError(f"{name}: is {what}; {advice}")
    if beginning[_TAR[0] :].startswith(_TAR[1]):
        raise DatasetError(f"{name}: is a tar archive; unpack it, and give the folder")
    for mark, encoding in _MARKS.items():
        if beginning.startswith(mark):
            return encoding
    for guess in ("utf-16le", "utf-16be"):
        if len(beginning) > 1 and beginning[guess == "utf-16le"] == 0:  # half of an ASCII character
            raise DatasetError(
                f"{name}: line 1: not UTF-8, but likely {guess} without a byte order mark; "
                f"convert it with `iconv -f {guess} -t utf-8`"
            )
    return "utf-8"


def _is_damaged_utf8(found: bytes) -> bool:
    """Whether most of what is not ASCII is UTF-8 all the same."""
    text = found.decode("utf-8", "replace")
    damaged = text.count("\N{REPLACEMENT CHARACTER}")
    return sum(character > "\x7f" for character in text) > 2 * damaged


def _guess(found: bytes) -> str | None:
    """The encoding that these bytes are most likely of."""
    from charset_normalizer import from_bytes

    telling = b" ".join(word for word in found.split() if not word.isascii())
    matches = from_bytes(telling, cp_isolation=list(_GUESSES))
    if (best := matches.best()) is None:
        return None
    as_good = {name for match in matches if match.chaos == best.chaos for name in match.could_be_from_charset}
    return "cp1252" if "cp1252" in as_good else best.encoding.replace("_", "-")  # by far the commonest
