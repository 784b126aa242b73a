"""What operators may say of their nodes, and what functions make of it."""

import pytest
from modal_proto import api_pb2

from pilotlight.control.needs import labels_of
from pilotlight.core.errors import InvalidInput
from pilotlight.core.node_labels import parse_labels


def test_labels_are_pairs() -> None:
    assert parse_labels("") == {}
    assert parse_labels("region=US-East, cloud=aws,") == {"region": "us-east", "cloud": "aws"}


@pytest.mark.parametrize(
    "text", ["region", "=x", "region=", "Region=x", "a=b c", "a=1,a=2", ",".join(f"a{n}=1" for n in range(33))]
)
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_labels(text)


def test_a_function_asks_by_region_cloud_and_preemptibility() -> None:
    assert labels_of(api_pb2.Function(cloud_provider_str="auto")) == {}
    placement = api_pb2.SchedulerPlacement(regions=["us-east", "EU"], nonpreemptible=True)
    assert labels_of(api_pb2.Function(cloud_provider_str="OCI", scheduler_placement=placement)) == {
        "region": frozenset({"us-east", "eu"}),
        "cloud": frozenset({"oci"}),
        "preemptible": frozenset({"false"}),
    }
