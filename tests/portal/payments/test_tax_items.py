"""Lines as the provider can tax them, and back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.subscriptions import APRIL
from farebox_portal.payments import tax_items as module
from farebox_portal.payments.gateway import Line, RemoteTax
from farebox_portal.payments.tax_items import netted, on_lines, tax_items
from farebox_portal.pricing.money import currency

USD = currency("USD")
LINES = st.lists(
    st.tuples(st.integers(-500, 1000), st.sampled_from([None, "exclusive", "inclusive"])), min_size=1, max_size=30
)


def lines(said: list[tuple[int, str | None]]) -> list[Line]:
    return [Line(f"l{n}", amount, "x", APRIL, APRIL, behavior) for n, (amount, behavior) in enumerate(said)]


@given(LINES)
def test_what_is_sent_is_never_below_0_and_comes_to_the_same(said: list[tuple[int, str | None]]) -> None:
    total = sum(amount for amount, _ in said)
    if total < 0:
        with pytest.raises(ValueError, match="less than 0"):
            netted(lines(said))
        return
    sent = tax_items(lines(said))
    assert sum(item.line.amount_minor for item in sent) == total
    assert all(item.line.amount_minor > 0 for item in sent)
    assert all(sum(part for _, part in item.parts) == item.line.amount_minor for item in sent)


def test_what_is_given_back_is_taken_off_lines_of_the_same_terms_first() -> None:
    found = netted(lines([(100, "exclusive"), (100, "inclusive"), (-130, "inclusive")]))
    assert [line.amount_minor for line in found] == [70, 0, 0]


@given(LINES, st.integers(0, 5000))
def test_taxes_of_folded_lines_come_back_to_the_last_cent(said: list[tuple[int, str | None]], tax: int) -> None:
    said = [(abs(amount) + 1, behavior) for amount, behavior in said]
    before = module.LINES_MAX
    module.LINES_MAX = 5
    try:
        items = tax_items(lines(said))
    finally:
        module.LINES_MAX = before
    assert len(items) <= max(5, 3)
    taxes = {item.line.id: (RemoteTax(tax, item.line.behavior == "inclusive", "standard_rated"),) for item in items}
    found = on_lines(items, taxes, {}, USD)
    if tax:
        assert set(found) == {line.id for line in lines(said)}
    assert sum(one["amountMinor"] for all_ in found.values() for one in all_) == tax * len(items)


def test_names_are_taken_only_where_the_figures_are_the_same() -> None:
    (item,) = tax_items(lines([(1000, "exclusive")]))
    charged = RemoteTax(200, False, "standard_rated")
    named = replace(charged, name="VAT", percentage="20", jurisdiction="AT")
    assert on_lines([item], {"l0": [charged]}, {"l0": [named]}, USD)["l0"][0]["name"] == "VAT"
    other = replace(named, amount_minor=190)
    (found,) = on_lines([item], {"l0": [charged]}, {"l0": [other]}, USD)["l0"]
    assert (found["name"], found["amountMinor"]) == ("Tax", 200)


def test_a_tax_of_nothing_is_told_where_the_law_wants_it_told() -> None:
    (item,) = tax_items(lines([(1000, "exclusive")]))
    for reason, count in (("reverse_charge", 1), ("customer_exempt", 1), ("not_collecting", 0)):
        found = on_lines([item], {"l0": [RemoteTax(0, False, reason)]}, {}, USD)
        assert len(found.get("l0", [])) == count
