from pathlib import Path

import pytest

from farebox_portal.catalog_files.files import read_catalog, read_one, read_plan
from farebox_portal.errors import Fault, Invalid


def a_file(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_sections_of_all_documents_and_files_become_one_catalog(tmp_path: Path) -> None:
    one = a_file(tmp_path, "one.yaml", "plans:\n- key: a\n---\nmeters: []\nplans:\n- key: b\n")
    two = a_file(tmp_path, "two.json", '{"features": null, "plans": [{"key": "c"}]}')
    files = read_catalog([one, two])
    assert files.document == {"plans": [{"key": "a"}, {"key": "b"}, {"key": "c"}], "meters": [], "features": []}


def test_a_fault_of_the_portal_names_file_and_line(tmp_path: Path) -> None:
    one = a_file(tmp_path, "one.yaml", "plans:\n- key: a\n")
    two = a_file(tmp_path, "two.yaml", "---\nplans:\n- key: b\n  name: B\n  phases:\n  - key: x\n")
    files = read_catalog([one, two])
    placed = files.place(Fault(pointer="/plans/1/phases/0/rateCards", detail="is required"))
    assert placed == {"pointer": f"{two}:6: /plans/0/phases/0/rateCards", "detail": "is required"}
    assert files.place(Fault(pointer="/plans/0", detail="x"))["pointer"] == f"{one}:2: /plans/0"
    for pointer in ("", "/publish", "/plans", "/plans/7/key"):
        assert files.place(Fault(pointer=pointer, detail="x"))["pointer"] == pointer


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "one.yaml:1: must be an object with meters, features, policies, addons, plans, planAddons, coupons"),
        ("plan: []", "one.yaml:1: /plan: is not one of meters, features, policies, addons, plans, planAddons, coupons"),
        ("meters: {}\nplans: 3", "one.yaml:1: /meters: must be a list; one.yaml:2: /plans: must be a list"),
        ("a: [", "one.yaml: line 1: is not YAML: "),
    ],
)
def test_what_is_no_catalog_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid) as refused:
        read_catalog([Path(a_file(tmp_path, "one.yaml", text)).name])
    said = "; ".join(f"{one['pointer']}: {one['detail']}" for one in refused.value.errors)
    assert said.startswith(fault)


def test_a_plan_alone_or_in_a_catalog_is_the_same_plan(tmp_path: Path) -> None:
    alone = read_plan(a_file(tmp_path, "one.yaml", "key: pro\nname: Pro\n"))
    within = read_plan(a_file(tmp_path, "two.yaml", "meters: []\nplans:\n- key: pro\n  name: Pro\n"))
    assert alone.value == within.value == {"key": "pro", "name": "Pro"}
    fault = Fault(pointer="/plan/name", detail="x")
    assert alone.place(fault, "/plan")["pointer"].endswith("one.yaml:2: /name")
    assert within.place(fault, "/plan")["pointer"].endswith("two.yaml:4: /plans/0/name")
    assert within.place(Fault(pointer="/to", detail="x"), "/plan")["pointer"] == "/to"


def test_a_file_that_is_not_there_or_not_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\xff\xfe\xff")
    for name, reason in (("none", "No such file"), ("raw", "is not UTF-8"), (".", "Is a directory")):
        with pytest.raises(Invalid, match=reason):
            read_one(str(tmp_path / name))
    with pytest.raises(Invalid, match="must hold one document"):
        read_one(a_file(tmp_path, "two.yaml", "a: 1\n---\nb: 2\n"))
