"""A comparison of a column is a condition, and `where=` accepts only conditions."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

from supawire import FilterColumn, Insert, Selector, Where, changes, col


def conditions() -> None:
    price = col("price")
    assert_type(price, FilterColumn)
    assert_type(price.name, str)
    assert_type(price >= 1, Where)
    assert_type(Decimal(1) <= price, Where)
    assert_type(price == Decimal("1.50"), Where)
    assert_type(price != 1.5, Where)
    assert_type(col("id") == UUID(int=1), Where)
    assert_type(col("at") < datetime(2024, 1, 1, tzinfo=UTC), Where)
    assert_type(col("data") == b"x", Where)
    assert_type(price.in_([1, Decimal(2)]), Where)
    assert_type(price.in_({"a"}), Where)
    assert_type(price.is_(None), Where)
    assert_type(price.is_("unknown"), Where)
    assert_type(price.is_distinct_from("a"), Where)
    assert_type(col("name").like("a%"), Where)
    assert_type(~col("name").imatch("^a"), Where)
    assert_type((price > 1) & (price < 5), Where)
    assert_type(str(price > 1), str)


def only_conditions_are_accepted() -> None:
    assert_type(
        changes("orders", event="INSERT", where=(col("price") >= 1) & ~col("note").is_(None)),
        Selector[Insert[dict[str, Any]]],
    )
    changes("orders", where="price=gte.1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    changes("orders", where=col("price"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    changes("orders", where=True)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    changes("orders", where=col("price") == None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]  # noqa: E711
    changes("orders", where=col("price") == [1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    changes("orders", filter=col("price") > 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def what_the_server_cannot_express_is_refused_before_it_runs() -> None:
    price, name = col("price"), col("name")
    (price > 1) | (name == "a")  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    price > name  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]  # noqa: B015
    price > 1 & name  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]  # noqa: B015
    _ = ~price  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    price.is_("null")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price.in_(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    name.like(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price.name = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
