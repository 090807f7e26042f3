"""Excel workbooks: the first sheet, with a header as CSV has. Bounded in size, since a workbook is a zip archive."""

import warnings
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date
from io import BufferedReader
from typing import BinaryIO

from .opening import Damaged, seekable
from .records import Broken, MissingLibrary, Record
from .tables import Row, records

_MAX_UNPACKED_BYTES = 512 << 20  # most of it text, which openpyxl holds in memory
_MAX_COLUMNS = 256


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a broken place for every row.

    Raises:
        MissingLibrary: openpyxl is not installed.
        Damaged: it is no workbook that can be read.
    """
    with seekable(file) as copy:
        yield from records(_rows(copy))


def _rows(file: BinaryIO) -> Iterator[Row]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise MissingLibrary("reading Excel workbooks", "openpyxl") from error
    try:
        _check_size(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are of styles and the like
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what the file says of them may be wrong, and is believed
        for number, cells in enumerate(sheet.iter_rows(max_col=_MAX_COLUMNS, values_only=True), start=1):
            if cells.count(None) < len(cells):  # a row that is far down makes a million empty ones
                yield f"row {number}", list(map(_text, cells))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(error) from error
    except (SyntaxError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error) as error:
        raise _damaged(error) from error


def _check_size(file: BinaryIO) -> None:
    """Sizes as the archive tells them: no more than that is ever unpacked of a part."""
    with zipfile.ZipFile(file) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _MAX_UNPACKED_BYTES:
        raise Damaged(f"unpacks to {size >> 20} MB, which is more than is read: save it as CSV")


def _damaged(error: Exception) -> Damaged:
    return Damaged(f"is no Excel workbook that can be read ({type(error).__name__}: {error}): save it as CSV")


def _text(cell: object) -> str:
    """A cell as it is written: an id that Excel took for a number is a whole one."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, date) else str(cell)
