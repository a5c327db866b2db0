"""The output in the page about doctor is that of real runs."""

import pytest


@pytest.mark.slow
def test_the_tour_of_doctor_is_up_to_date():
    """Each output equals that of a new run; `python -m docs.doctor_tour` writes them."""
    pytest.importorskip("psycopg")
    from docs.doctor_tour import PAGE, rewritten

    text = PAGE.read_text(encoding="utf-8")
    assert rewritten(text) == text
