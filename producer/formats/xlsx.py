"""Excel workbooks: the first sheet, with a header as in CSV. Their size is limited, since they are zip archives."""

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

_MAX_UNPACKED_BYTES = 512 << 20  # most of it is text, which openpyxl keeps in memory
_MAX_COLUMNS = 256


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every row.

    Raises:
        MissingLibrary: openpyxl is not installed.
        Damaged: the workbook cannot be read.
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
            warnings.simplefilter("ignore")  # about styles and the like
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        of_sheet = f" of sheet {sheet.title!r}, the first" if len(book.worksheets) > 1 else ""
        sheet.reset_dimensions()  # the file may state wrong dimensions, which openpyxl would trust
        for number, cells in enumerate(sheet.iter_rows(max_col=_MAX_COLUMNS, values_only=True), start=1):
            if cells.count(None) < len(cells):  # a row far down causes many empty rows before it
                yield f"row {number}{of_sheet}", list(map(_text, cells))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(error) from error
    except (SyntaxError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error) as error:
        raise _damaged(error) from error


def _check_size(file: BinaryIO) -> None:
    """Check the sizes declared in the archive; no part is ever unpacked beyond its declared size."""
    with zipfile.ZipFile(file) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _MAX_UNPACKED_BYTES:
        raise Damaged(f"unpacks to {size >> 20} MB, which is more than is read: save it as CSV")


def _damaged(error: Exception) -> Damaged:
    return Damaged(f"is no Excel workbook that can be read ({type(error).__name__}: {error}): save it as CSV")


def _text(cell: object) -> str:
    """A cell as text. Excel stores ids as numbers, so whole numbers are written without a fraction."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if isinstance(cell, date) else str(cell)
