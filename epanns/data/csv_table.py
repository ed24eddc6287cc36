"""CSV files with column names in their first line, as others write them."""

import csv
from pathlib import Path

from epanns.errors import DataError


def read_csv_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the column names and the rows of a CSV file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: If the file cannot be read as CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            return list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
