"""What SQLite and PostgreSQL say differently; the rest of the store is the same for both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Self, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

Columns: TypeAlias = Mapping[str, TypeEngine[Any]]
Given: TypeAlias = Mapping[str, sa.ColumnElement[Any]]
_Value: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], Iterable[Any]]

# One parameter holds the whole list, so a statement's text does not depend on how many there are.
_TEXTS = sa.JSON().with_variant(ARRAY(sa.Text), "postgresql")


class _Condition(FunctionElement[bool]):
    inherit_cache = True
    type = sa.Boolean()

    def self_group(self, against: OperatorType | None = None) -> Self:  # noqa: ARG002 - SQLAlchemy's name
        """As it is: on SQLite, SQLAlchemy would write ``… = 1``, and no index is found behind that."""
        return self


class among(_Condition):  # noqa: N801 - reads as the SQL operator it stands for
    """``among(column)``: the column is one of the texts in the parameter ``ids``, or in another."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], parameter: str = "ids") -> None:
        super().__init__(column, sa.bindparam(parameter, type_=_TEXTS))


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"  # noqa: S608 - made of compiled clauses


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY ({texts})"


class has_entry(_Condition):  # noqa: N801 - reads as the SQL function it stands for
    """A JSON object of texts holds this key with this value; any key, whatever a JSON path makes of it."""

    inherit_cache = True

    def __init__(self, column: sa.Column[Any], key: str, value: str) -> None:
        super().__init__(column, sa.literal(key, sa.Text), sa.literal(value, sa.Text))


@compiles(has_entry, "sqlite")
def _has_entry_sqlite(element: has_entry, compiler: SQLCompiler, **options: Any) -> str:
    column, key, value = (compiler.process(clause, **options) for clause in element.clauses)
    entries = f"SELECT 1 FROM json_each({column}) AS entry"  # noqa: S608 - made of compiled clauses
    return f"EXISTS ({entries} WHERE entry.key = {key} AND entry.value = {value})"


@compiles(has_entry, "postgresql")
def _has_entry_postgresql(element: has_entry, compiler: SQLCompiler, **options: Any) -> str:
    column, key, value = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} ->> {key}) = {value}"


class insert_new(sa.Insert):  # noqa: N801 - stands beside sa.insert
    """INSERT that leaves alone what is there already under the same primary key."""

    inherit_cache = True


@compiles(insert_new)
def _insert_new(element: insert_new, compiler: SQLCompiler, **options: Any) -> str:
    insert = compiler.visit_insert(element, **options)  # type: ignore[no-untyped-call]
    return f"{insert} ON CONFLICT DO NOTHING"


class insert_adding(sa.Insert):  # noqa: N801 - stands beside sa.insert
    """INSERT that adds to the numbers that are there already under the same primary key."""

    inherit_cache = True


@compiles(insert_adding)
def _insert_adding(element: insert_adding, compiler: SQLCompiler, **options: Any) -> str:
    return _insert_or(element, compiler, f"{element.table.name}.{{name}} + excluded.{{name}}", **options)


class insert_replacing(sa.Insert):  # noqa: N801 - stands beside sa.insert
    """INSERT that replaces what is there already under the same primary key."""

    inherit_cache = True


@compiles(insert_replacing)
def _insert_replacing(element: insert_replacing, compiler: SQLCompiler, **options: Any) -> str:
    return _insert_or(element, compiler, "excluded.{name}", **options)


def _insert_or(element: sa.Insert, compiler: SQLCompiler, change: str, **options: Any) -> str:
    """INSERT, or give each column but the key's what ``change`` makes of its ``name``."""
    table = element.table
    insert = compiler.visit_insert(element, **options)  # type: ignore[no-untyped-call]
    key = ", ".join(column.name for column in table.c if column.primary_key)
    names = [column.name for column in table.c if not column.primary_key]
    changes = ", ".join(f"{name} = {change.format(name=name)}" for name in names)
    return f"{insert} ON CONFLICT ({key}) DO UPDATE SET {changes}"


class PerRow:
    """A statement that is run once for each of some rows.

    SQLAlchemy prepares each value of each row in Python, which takes as long as SQLite takes for the statement. So
    there the text is compiled once, and a row is prepared only where a value needs it.
    """

    def __init__(self, statement: sa.Insert | sa.Update, names: Collection[str]) -> None:
        """``names`` are of the parameters, which each row has."""
        self._statement = statement
        self._names = list(names)
        self._plain: tuple[str, list[_Value]] | None = None

    def __call__(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it; there is at least one of ``rows``."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
            return
        if self._plain is None:
            self._plain = self._compile(connection.dialect)
        text, values = self._plain
        connection.exec_driver_sql(text, list(zip(*(value(rows) for value in values), strict=False)))

    def _compile(self, dialect: sa.Dialect) -> tuple[str, list[_Value]]:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._names)
        if compiled.positiontup is None:
            raise TypeError(f"{dialect.name} takes parameters by name")
        return compiled.string, [self._value(name, compiled, dialect) for name in compiled.positiontup]

    def _value(self, name: str, compiled: SQLCompiler, dialect: sa.Dialect) -> _Value:
        """From all rows to what stands at one place of the text, row by row; for ever where it is the same for all."""
        if name not in self._names:
            constant = compiled.params[name]
            return lambda _: repeat(constant)
        process = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        if process is None:
            return lambda rows: (row[name] for row in rows)
        return lambda rows: (process(row[name]) for row in rows)


class UpdateEach:
    """An UPDATE of many rows, each with values of its own.

    SQLite runs the statement once a row, in C. PostgreSQL gets one array a column and joins them, which is two to
    three times as fast there as a statement a row.
    """

    def __init__(self, columns: Columns, build: Callable[[Given], sa.Update]) -> None:
        """``build`` makes the statement from the expressions that stand for each row's values."""
        arrays = sa.func.unnest(*(sa.bindparam(name, type_=ARRAY(kind)) for name, kind in columns.items()))
        table = arrays.table_valued(*(sa.column(name, kind) for name, kind in columns.items())).render_derived("given")
        a_row = build({name: sa.bindparam(name, type_=kind) for name, kind in columns.items()})
        self._a_row = PerRow(a_row, columns)
        self._together = build({name: table.c[name] for name in columns})
        self._names = tuple(columns)

    def __call__(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Update; each of ``rows`` has a value for each of the columns."""
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self._together, {name: [row[name] for row in rows] for name in self._names})
        else:
            self._a_row(connection, rows)
