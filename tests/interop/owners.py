"""Actions of the owner of a local server with and without PostgreSQL, so that one test runs with both."""

import json
from typing import Any, Protocol

from supawire.server import LocalServer


class Owner(Protocol):
    """Changes rows, sends messages from the database, and authorizes private channels."""

    @property
    def server(self) -> LocalServer: ...
    def orders(self) -> None:
        """Create the tables `orders` and `customers`, and publish their changes."""
        ...

    def insert(self, table: str, row: dict[str, Any]) -> None: ...
    def update(self, row: dict[str, Any]) -> None:
        """Update an order."""
        ...

    def delete(self, key: int) -> None:
        """Delete an order."""
        ...

    def send(self, topic: str, event: str, payload: dict[str, Any]) -> str:
        """Store a private message and deliver it; return its id."""
        ...

    def allow_topic(self, topic: str) -> None:
        """Let signed-in users join this private topic and no other."""
        ...


class MemoryOwner:
    """Uses the methods of a server without a database."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server

    def orders(self) -> None:
        pass

    def insert(self, table: str, row: dict[str, Any]) -> None:
        self.server.emit("INSERT", table, record=row)

    def update(self, row: dict[str, Any]) -> None:
        self.server.emit_update("orders", record=row, old_record={"id": row["id"]})

    def delete(self, key: int) -> None:
        self.server.emit_delete("orders", old_record={"id": key})

    def send(self, topic: str, event: str, payload: dict[str, Any]) -> str:
        return self.server.send(topic, event, payload)

    def allow_topic(self, topic: str) -> None:
        self.server.policy(lambda claims, name, extension, action: name == topic)


class PostgresOwner:
    """Runs SQL."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        server.sql("create policy entry on realtime.messages for all to authenticated using (true) with check (true)")

    def orders(self) -> None:
        self.server.sql("""
            create table orders (id int primary key, status text, tags text[]);
            create table customers (id int primary key);
            alter publication supabase_realtime add table orders, customers;
        """)

    def insert(self, table: str, row: dict[str, Any]) -> None:
        self.server.sql(f"insert into {table} select * from json_populate_record(null::{table}, %s)", json.dumps(row))

    def update(self, row: dict[str, Any]) -> None:
        self.server.sql("update orders set status = %s, tags = %s where id = %s", row["status"], row["tags"], row["id"])

    def delete(self, key: int) -> None:
        self.server.sql("delete from orders where id = %s", key)

    def send(self, topic: str, event: str, payload: dict[str, Any]) -> str:
        self.server.sql("select realtime.send(%s::jsonb, %s, %s)", json.dumps(payload), event, topic)
        ((number,),) = self.server.sql("select id::text from realtime.messages where topic = %s", topic)
        return number

    def allow_topic(self, topic: str) -> None:
        self.server.sql(f"alter policy entry on realtime.messages using (realtime.topic() = '{topic}')")
