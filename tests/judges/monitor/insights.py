"""Runs queries of Application Insights by DuckDB, at a time of ours. Runs in the judges' environment."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import duckdb_kql

from tests.judges.monitor.tables import SCHEMA, Row

# What an alert does not see yet: from a number to the moment when it can be queried takes minutes.
LAG = timedelta(minutes=2)
_TYPES = {"datetime": "TIMESTAMP", "string": "VARCHAR", "dynamic": "JSON", "real": "DOUBLE", "int": "INTEGER"}
_READ = {"datetime": "::TIMESTAMPTZ::TIMESTAMP", "dynamic": "::JSON"}


class Insights:
    """The tables, with these rows. A query sees those of a window of time.

    DuckDB's clock is not ours: the query gets its time as a parameter, where it says ``now()`` or ``ago(…)``. Azure
    limits a rule's query to the rule's window in the same way as the views here.
    """

    def __init__(self, tables: Mapping[str, Iterable[Row]]) -> None:
        self._connection = duckdb_kql.connect()
        self._translated: dict[str, tuple[str, str | None]] = {}
        self._connection.execute("CREATE TABLE clock (since TIMESTAMP, until TIMESTAMP)")
        self._connection.execute("INSERT INTO clock VALUES (NULL, NULL)")
        for table, columns in SCHEMA.items():
            typed = ", ".join(f'"{name}" {_TYPES[kind]}' for name, kind in columns.items())
            self._connection.execute(f'CREATE TABLE "all {table}" ({typed})')
            self._fill(table, tables.get(table, ()))
            self._connection.execute(
                f'CREATE VIEW "{table}" AS SELECT t.* FROM "all {table}" t, clock '
                "WHERE t.timestamp > clock.since AND t.timestamp <= clock.until"
            )

    def _fill(self, table: str, rows: Iterable[Row]) -> None:
        columns = SCHEMA[table]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            for row in rows:
                file.write(json.dumps({name: row[name] for name in columns}) + "\n")
            file.flush()
            read = {name: _TYPES[kind] if kind in ("real", "int") else "VARCHAR" for name, kind in columns.items()}
            made = ", ".join(f'"{name}"{_READ.get(kind, "")}' for name, kind in columns.items())
            typed = ", ".join(f"'{name}': '{kind}'" for name, kind in read.items())
            self._connection.execute(
                f'INSERT INTO "all {table}" SELECT {made} '
                f"FROM read_json('{file.name}', format = 'newline_delimited', columns = {{{typed}}})"
            )

    def ask(
        self, text: str, at: datetime, window: timedelta = timedelta(days=30), lag: timedelta = timedelta()
    ) -> list[dict[str, Any]]:
        """The rows that the query finds at a time."""
        sql, slot = self._translate(text, at)
        self._connection.execute("UPDATE clock SET since = ?, until = ?", [at - window, at - lag])
        done = self._connection.execute(sql, {slot: at} if slot else None)
        names = [each[0] for each in done.description]
        return [dict(zip(names, row, strict=True)) for row in done.fetchall()]

    def _translate(self, text: str, at: datetime) -> tuple[str, str | None]:
        if text not in self._translated:
            timed = re.sub(r"\bago\(([^()]+)\)", r"(judged_at - \1)", re.sub(r"\bnow\(\)", "judged_at", text))
            timed = f"declare query_parameters(judged_at:datetime);\n{timed}"
            schema = {name: list(columns) for name, columns in SCHEMA.items()}
            sql = duckdb_kql.to_sql(timed, schema=schema, parameters={"judged_at": at})
            self._translated[text] = str(sql), next(iter(sql.parameters), None)
        return self._translated[text]
