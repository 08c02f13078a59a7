"""Tables of an SQLite database, opened read-only through apsw: one document per table, one block per row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from edge.errors import DocumentError
from edge.ingest.formats.base import Builder, Parsed, Source, clean, record, squeeze

if TYPE_CHECKING:
    import apsw

_MAGIC = b"SQLite format 3\x00"
_TABLES = """
select name from pragma_table_list
where schema = 'main' and type = 'table' and name not like 'sqlite^_%' escape '^' order by name
"""
_WAL_VERSION = 2  # at byte 18 of the header, https://www.sqlite.org/fileformat.html#the_database_header


def parse(source: Source) -> list[Parsed]:
    """All tables in one read transaction, so that they agree; views, virtual tables and blobs are left out.

    :raises DocumentError: no database, damaged, encrypted, or in need of recovery by its own program.
    """
    import apsw

    try:
        connection = _open(source)
        try:
            with connection:
                names = [name for (name,) in connection.execute(_TABLES)]
                parsed = [table for name in names if (table := _table(connection, name, source))]
        finally:
            connection.close()
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise DocumentError(f"the database is damaged or encrypted: {error}") from None
    except apsw.Error as error:
        raise DocumentError(f"the database cannot be read now: {error}; close the program that writes to it") from None
    if not parsed:
        raise DocumentError("the database has no table with rows")
    return parsed


def _open(source: Source) -> apsw.Connection:
    import apsw

    with source.path.open("rb") as stream:
        header = stream.read(100)
    if not header.startswith(_MAGIC):
        raise DocumentError("is not an SQLite database (or it is encrypted)")
    wal = source.path.with_name(source.path.name + "-wal")
    # A database in WAL mode that nobody has open is "immutable": SQLite would create files beside it otherwise.
    immutable = header[18] == _WAL_VERSION and not wal.exists()
    uri = f"file:{quote(str(source.path))}?mode=ro" + ("&immutable=1" if immutable else "")
    connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(5000)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)  # a hostile schema must not run functions
    connection.execute("pragma cell_size_check = on")
    return connection


def _table(connection: apsw.Connection, name: str, source: Source) -> Parsed | None:
    quoted = '"' + name.replace('"', '""') + '"'
    cursor = connection.execute(f"select * from {quoted}")
    digest = hashlib.sha256()
    builder = Builder(source.max_chars)
    names: list[str] = []
    for row in cursor:
        names = names or [squeeze(clean(column), 80) for column, *_ in cursor.get_description()]
        for value in row:
            data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
            digest.update(b"%s %d " % (type(value).__name__.encode(), len(data)) + data)
        builder.row(record(names, _cells(row)))
    digest.update(repr(names).encode())
    parsed = builder.build(f"{source.path.stem}: {name}", name, digest.hexdigest())
    return parsed if parsed.blocks else None


def _cells(row: tuple[Any, ...]) -> Iterator[str]:
    for value in row:
        if value is None or isinstance(value, bytes):
            yield ""
        else:
            yield value if isinstance(value, str) else repr(value)
