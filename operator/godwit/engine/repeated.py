"""Statements that each migration asks again: the server parses and plans them once in a session.

That is most of what they cost it. What a script may do to them (DEALLOCATE ALL) is met where they are used.
"""

from typing import Final

FORGOTTEN: Final = "26000"
"""invalid_sql_statement_name: the server knows a prepared statement no more (manual, appendix A)."""


class Repeated:
    """One *query*, with a %(name)s for each of its values. *types* are those, by name, as SQL writes them."""

    def __init__(self, query: str, **types: str) -> None:
        self.query = query.encode()
        self._types = types

    def prepare(self, name: str) -> bytes:
        """The statement that prepares it as *name*."""
        text = self.query.decode()
        if not self._types:
            return f"PREPARE {name} AS {text}".encode()
        numbered = text % {value: f"${number}" for number, value in enumerate(self._types, 1)}
        return f"PREPARE {name} ({', '.join(self._types.values())}) AS {numbered}".encode()

    def execute(self, name: str) -> bytes:
        """The statement that runs it, with the values' names in it."""
        values = f" ({', '.join(f'%({value})s' for value in self._types)})" if self._types else ""
        return f"EXECUTE {name}{values}".encode()
