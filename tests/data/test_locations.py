from pathlib import Path

import pytest

from clearsight.documents.data.locations import BadLocation, resolve_location

BASE = Path("/annotations")
STORES = {
    "pictures": Path("/mnt/pictures"),
    "workspaceblobstore": Path("/mnt/default"),
    "wasbs://box@account.blob.core.windows.net/": Path("/mnt/blob"),
    "https://example.org/photos/": Path("/mnt/web"),
}
LONG = "azureml://subscriptions/1-2/resourcegroups/group/workspaces/space/datastores/pictures/paths/"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("1.jpg", "/annotations/1.jpg"),
        ("./a/1.jpg", "/annotations/a/1.jpg"),
        ("../images/1.jpg", "/annotations/../images/1.jpg"),
        ("/abs/1.jpg", "/abs/1.jpg"),
        ("100%25.jpg", "/annotations/100%25.jpg"),
        ("file:///abs/a%20b.jpg", "/abs/a b.jpg"),
        ("file://localhost/abs/1.jpg", "/abs/1.jpg"),
        ("file:a/1.jpg", "/annotations/a/1.jpg"),
        (LONG + "a/1.jpg", "/mnt/pictures/a/1.jpg"),
        (LONG.replace("resourcegroups", "resourceGroups") + "a/1.jpg", "/mnt/pictures/a/1.jpg"),
        ("AzureML://Datastores/pictures/Paths/a/1.jpg", "/mnt/pictures/a/1.jpg"),
        ("azureml://datastores/pictures/paths/a%20b/1%2525.jpg", "/mnt/pictures/a b/1%25.jpg"),
        ("azureml://datastores/pictures/paths/a/../b//./1.jpg", "/mnt/pictures/b/1.jpg"),
        ("AmlDatastore://pictures/1.jpg", "/mnt/pictures/1.jpg"),
        ("AmlDatastore://image_data/1.jpg", "/mnt/default/image_data/1.jpg"),
        ("wasbs://box@account.blob.core.windows.net/a/1.jpg", "/mnt/blob/a/1.jpg"),
        ("https://example.org/photos/a%20b.jpg", "/mnt/web/a b.jpg"),
        ("https://example.org/photos/a/1.jpg?sv=2020-08-04&sig=a%2Fb#top", "/mnt/web/a/1.jpg"),
        ("https://example.org/photos/1%3F%23.jpg", "/mnt/web/1?#.jpg"),
    ],
)
def test_a_location_resolves_to_a_path(url: str, path: str) -> None:
    assert resolve_location(url, BASE, STORES) == Path(path)


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("", "BAD_DATA", "must be a path or a URL"),
        ("a\0b", "BAD_DATA", "must be a path or a URL"),
        ("azureml://datastores/pictures/paths/../1.jpg", "BAD_DATA", "inside its datastore"),
        ("azureml://datastores/pictures/paths/a/%2e%2e/%2e%2e/1.jpg", "BAD_DATA", "inside its datastore"),
        ("azureml://datastores/pictures/paths/a%2F..%2F..%2F1.jpg", "BAD_DATA", "inside its datastore"),
        ("azureml://datastores/pictures/paths/", "BAD_DATA", "must name a file"),
        ("AmlDatastore://pictures/../1.jpg", "BAD_DATA", "inside its datastore"),
        ("azureml://datastores/other/paths/1.jpg", "BAD_DATA_REF", "'other' must be mapped"),
        ("azureml://pictures/1.jpg", "BAD_DATA_REF", "azureml://datastores/<name>/paths/<path>"),
        ("abfss://box@account.dfs.core.windows.net/1.jpg", "BAD_DATA_REF", "not mapped"),
        ("https://example.com/1.jpg", "BAD_DATA_REF", "not downloaded yet"),
        ("file://elsewhere/1.jpg", "BAD_DATA_REF", "this machine"),
    ],
)
def test_a_location_that_cannot_be_used_says_why(url: str, code: str, words: str) -> None:
    with pytest.raises(BadLocation, match=words) as raised:
        resolve_location(url, BASE, STORES)
    assert raised.value.code == code


def test_an_unmapped_datastore_names_the_mapped_ones() -> None:
    with pytest.raises(BadLocation, match="mapped are pictures"):
        resolve_location("azureml://datastores/x/paths/1.jpg", BASE, {"pictures": Path("/p")})
    with pytest.raises(BadLocation, match="none is mapped"):
        resolve_location("AmlDatastore://x/1.jpg", BASE, {})
