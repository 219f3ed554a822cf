import pytest
from fastapi.testclient import TestClient


@pytest.fixture
def seven(client: TestClient) -> TestClient:
    for number in range(7):
        assert client.post("/v1/customers", json={"key": f"c{number}", "name": "C"}).status_code == 201
    return client


def test_pages_tile_the_list(seven: TestClient) -> None:
    pages = [seven.get(f"/v1/customers?page={page}&pageSize=3").json() for page in (1, 2, 3, 4)]
    assert [len(page["items"]) for page in pages] == [3, 3, 1, 0]
    assert all((page["totalCount"], page["pageSize"]) == (7, 3) for page in pages)
    assert len({item["id"] for page in pages for item in page["items"]}) == 7


def test_policies_are_paged_too(client: TestClient) -> None:
    page = client.get("/v1/policies?page=2&pageSize=1").json()
    assert (page["items"], page["totalCount"]) == ([], 1)


@pytest.mark.parametrize("query", ["page=0", "page=x", "pageSize=0", "pageSize=1001", "page=9999999999999999999"])
def test_a_page_has_its_bounds(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/customers?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"
