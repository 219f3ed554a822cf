from typing import Any

import pytest

from farebox_portal.catalog.plan_metadata import PlanMarks, metadata_faults, plan_marks


@pytest.mark.parametrize(
    ("metadata", "marks"),
    [
        ({}, PlanMarks()),
        ({"private": "true", "anything": ["else"]}, PlanMarks()),
        ({"zuplo_private_plan": "true"}, PlanMarks(is_private=True)),
        ({"zuplo_private_plan": True}, PlanMarks(is_private=True)),
        ({"zuplo_private_plan": "False"}, PlanMarks()),
        ({"zuplo_private_plan": None}, PlanMarks()),
        ({"popular": True}, PlanMarks(is_most_popular=True)),
        ({"zuplo_most_popular": "true", "popular": "false"}, PlanMarks(is_most_popular=True)),
        (
            {"isCustom": "true", "contactUrl": "https://example.com/sales?a=1", "contactLabel": "Talk to us"},
            PlanMarks(is_custom=True, contact_url="https://example.com/sales?a=1", contact_label="Talk to us"),
        ),
        ({"contactUrl": "mailto:sales@example.com"}, PlanMarks(contact_url="mailto:sales@example.com")),
        ({"zuplo_max_payment_overdue_days": "7"}, PlanMarks(max_payment_overdue_days=7)),
        ({"zuplo_max_payment_overdue_days": 0}, PlanMarks(max_payment_overdue_days=0)),
    ],
)
def test_what_metadata_says(metadata: dict[str, Any], marks: PlanMarks) -> None:
    assert list(metadata_faults(metadata)) == []
    assert plan_marks(metadata) == marks


@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [
        ({"zuplo_private_plan": "yes"}, "/metadata/zuplo_private_plan"),
        ({"zuplo_private_plan": 1}, "/metadata/zuplo_private_plan"),
        ({"popular": []}, "/metadata/popular"),
        ({"isCustom": "1"}, "/metadata/isCustom"),
        ({"zuplo_max_payment_overdue_days": "-1"}, "/metadata/zuplo_max_payment_overdue_days"),
        ({"zuplo_max_payment_overdue_days": 366}, "/metadata/zuplo_max_payment_overdue_days"),
        ({"zuplo_max_payment_overdue_days": True}, "/metadata/zuplo_max_payment_overdue_days"),
        ({"zuplo_max_payment_overdue_days": "٣"}, "/metadata/zuplo_max_payment_overdue_days"),
        ({"contactUrl": "javascript:alert(1)"}, "/metadata/contactUrl"),
        ({"contactUrl": 'https://example.com/"onclick='}, "/metadata/contactUrl"),
        ({"contactUrl": "https://example.com/" + "a" * 2048}, "/metadata/contactUrl"),
        ({"contactUrl": 5}, "/metadata/contactUrl"),
        ({"contactLabel": ""}, "/metadata/contactLabel"),
        ({"contactLabel": "x" * 257}, "/metadata/contactLabel"),
    ],
)
def test_what_a_key_cannot_mean_is_a_fault(metadata: dict[str, Any], pointer: str) -> None:
    assert [fault["pointer"] for fault in metadata_faults(metadata)] == [pointer]


@pytest.mark.parametrize("metadata", [None, [], "x", 5])
def test_what_is_no_metadata_at_all_is_not_judged_here(metadata: Any) -> None:
    assert list(metadata_faults(metadata)) == []
