"""Lists and reads of metadata alone: what is asked of the API server."""

from __future__ import annotations

from bubu_operator.kube.resources import PODS


def test_metadata_alone_is_asked_for_by_name_and_selectors_go_along(serve):
    """A pod's metadata is a fraction of the pod; which pods, the server still decides."""
    server, client = serve(
        lambda handler: handler.reply({"items": [{"metadata": {"name": "p"}}], "metadata": {"continue": "t"}})
    )

    page = client.list_page(
        PODS, "flows", metadata_only=True, field_selector="status.phase!=Failed", limit=7, continue_token="c"
    )
    client.get(PODS, "p", "flows", metadata_only=True)
    client.list_page(PODS, "flows")

    assert (page.items, page.continue_token) == (({"metadata": {"name": "p"}},), "t")
    accepted = [headers["Accept"] for _, _, headers, _ in server.seen]
    assert accepted == [
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/json",
    ]
    assert "fieldSelector=status.phase%21%3DFailed" in server.seen[0][1]
    assert "continue=c" in server.seen[0][1]
