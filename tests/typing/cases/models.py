"""With `model=` handlers and iterators of both clients receive objects of that class."""

from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, assert_type

import msgspec
from pydantic import BaseModel

from supawire import (
    AsyncChannel,
    AsyncStream,
    Broadcast,
    Change,
    Channel,
    Delete,
    Insert,
    Presence,
    PresenceEvent,
    PresenceJoin,
    PresenceLeave,
    PresenceState,
    PresenceSync,
    PresenceUpdate,
    Selector,
    Stream,
    Subscription,
    Update,
    broadcast,
    changes,
    presence,
)

T = TypeVar("T")


@dataclass
class User:
    id: int
    name: str


class Order(TypedDict):
    id: int


class Note(msgspec.Struct):
    id: int


class Job(BaseModel):
    id: int


@dataclass
class Box(Generic[T]):
    content: T


def every_kind_of_class() -> None:
    assert_type(changes("users", model=User), Selector[Change[User]])
    assert_type(changes("orders", model=Order), Selector[Change[Order]])
    assert_type(changes("notes", model=Note), Selector[Change[Note]])
    assert_type(changes("jobs", model=Job), Selector[Change[Job]])
    assert_type(changes("boxes", model=Box[int]), Selector[Change[Box[int]]])
    assert_type(broadcast("a", model=User), Selector[Broadcast[User]])
    assert_type(broadcast(model=Order), Selector[Broadcast[Order]])
    assert_type(broadcast("a", model=Note), Selector[Broadcast[Note]])
    assert_type(broadcast("a", model=Job), Selector[Broadcast[Job]])
    assert_type(broadcast("a", model=None), Selector[Broadcast[Any]])
    assert_type(presence(model=User), Selector[PresenceEvent[User]])
    assert_type(presence(model=Order), Selector[PresenceEvent[Order]])
    assert_type(presence(model=Note), Selector[PresenceEvent[Note]])
    assert_type(presence(model=Job), Selector[PresenceEvent[Job]])
    assert_type(presence(model=None), Selector[PresenceEvent[dict[str, Any]]])


def every_kind_of_change() -> None:
    assert_type(changes("users", event="INSERT", model=User), Selector[Insert[User]])
    assert_type(changes("users", event="UPDATE", model=User), Selector[Update[User]])
    assert_type(changes("users", event="DELETE", model=User), Selector[Delete])
    assert_type(changes("users", event="*", model=User), Selector[Change[User]])
    assert_type(changes("users", select=["id"], filter="id=gt.1", model=User), Selector[Change[User]])


def fields_of_events(insert: Insert[User], update: Update[User], delete: Delete, message: Broadcast[Note]) -> None:
    assert_type(insert.record, User)
    assert_type(insert.row, dict[str, Any])
    assert_type(update.record.name, str)
    assert_type(update.old_record, dict[str, Any])
    assert_type(delete.old_record, dict[str, Any])
    assert_type(message.payload, Note)
    assert_type(message.payload.id, int)
    print(insert.record.nmae)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(insert.record["id"])  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    print(delete.record)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(delete.row)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def a_match(change: Change[User]) -> User | None:
    match change:
        case Insert(record=user) | Update(record=user):
            assert_type(user, User)
            return user
        case Delete(old_record=row):
            assert_type(row, dict[str, Any])
            return None


def presence_entries(event: PresenceEvent[User]) -> None:
    match event:
        case PresenceJoin() | PresenceUpdate() | PresenceLeave():
            assert_type(event.current, tuple[Presence[User], ...])
            assert_type([entry.payload for entry in event.previous], list[User])
            print(event.current[0].payload.nmae)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        case PresenceSync():
            assert_type(event.state, PresenceState[User])
            assert_type(event.state["alice"][0].payload, User)


def people(room: Channel, later: AsyncChannel) -> None:
    assert_type(room.on(presence(model=User), presence_entries), Subscription)
    assert_type(later.on(presence(model=User), presence_entries), Subscription)
    assert_type(room.listen(presence(model=User)), Stream[PresenceEvent[User]])
    assert_type(later.listen(presence(model=Job)), AsyncStream[PresenceEvent[Job]])
    room.on(presence(model=Note), presence_entries)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    later.on(presence(), presence_entries)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def added(change: Insert[User]) -> None: ...
async def added_later(change: Insert[User]) -> None: ...
def noted(message: Broadcast[Note]) -> None: ...
def plain(change: Insert[dict[str, Any]]) -> None: ...
def any_change(change: Change[User]) -> None: ...


def handlers(room: Channel, later: AsyncChannel) -> None:
    inserts = changes("users", event="INSERT", model=User)
    assert_type(room.on(inserts, added), Subscription)
    assert_type(room.on(inserts, added_later), Subscription)
    assert_type(room.on(inserts, any_change), Subscription)
    assert_type(room.on(broadcast("a", model=Note), noted), Subscription)
    assert_type(later.on(inserts, added), Subscription)
    assert_type(later.on(inserts, added_later), Subscription)
    assert_type(later.on(broadcast("a", model=Note), noted), Subscription)
    room.on(inserts, plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    room.on(broadcast("a", model=User), noted)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    later.on(changes("users", model=User), added)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    later.on(changes("jobs", event="INSERT", model=Job), added)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def decorators(room: Channel, later: AsyncChannel, insert: Insert[User], message: Broadcast[Note]) -> None:
    @room.on(changes("users", event="INSERT", model=User))
    def greet(change: Insert[User]) -> str:
        return change.record.name

    @later.on(broadcast("note", model=Note))
    async def note(message: Broadcast[Note]) -> int:
        return message.payload.id

    assert_type(greet(insert), str)
    assert_type(await note(message), int)

    @room.on(changes("users", event="UPDATE", model=User))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def wrong(change: Insert[User]) -> None: ...


async def iterators(room: Channel, later: AsyncChannel) -> None:
    users, orders = changes("users", model=User), changes("orders", event="INSERT", model=Order)
    assert_type(room.listen(users), Stream[Change[User]])
    assert_type(later.listen(orders), AsyncStream[Insert[Order]])
    assert_type(room.listen(orders, broadcast("a", model=Note)), Stream[Insert[Order] | Broadcast[Note]])
    for change in room.listen(orders):
        assert_type(change.record, Order)
        assert_type(change.record["id"], int)
    async for message in later.listen(broadcast("a", model=Job)):
        assert_type(message.payload, Job)
    assert_type(next(room.listen(orders)), Insert[Order])
    wrong: Stream[Insert[User]] = room.listen(orders)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    print(wrong)


def wrong_models(user: User) -> None:
    changes("users", model=user)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    changes("users", model="User")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    broadcast("a", model=user)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    presence(model=user)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    presence(User)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    broadcast("a", modle=User)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
