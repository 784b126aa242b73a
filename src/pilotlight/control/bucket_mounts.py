"""Buckets as functions ask to see them: checked when they are defined, given their credentials when a container starts."""

from collections.abc import Iterable

from modal_proto import api_pb2

from pilotlight.control.secrets import Secrets
from pilotlight.control.volume_mounts import mounts_of
from pilotlight.core import errors
from pilotlight.core.buckets import check_bucket, credentials_of, has_no_subdomains
from pilotlight.core.volumes import VolumeMount, check_mounts
from pilotlight.wire import platform_pb2

MOST_BUCKETS = 10  # of one container: each is a process on its node
LONGEST_TTL_S = 24 * 3600

CloudBucketMount = api_pb2.CloudBucketMount


def check_buckets(function: api_pb2.Function, owner: str) -> None:
    """Whether a container can have the buckets that a definition names; raises InvalidInput, NotBuilt, OverLimit."""
    if function.s3_mounts:
        raise errors.NotBuilt(f"{owner} mounts buckets as clients before modal.CloudBucketMount did. Use that.")
    wanted = function.cloud_bucket_mounts
    for mount in wanted:
        check_bucket(owner, mount.mount_path, mount.bucket_name, mount.bucket_endpoint_url, mount.key_prefix)
        _refuse_unbuilt(mount, owner)
    if len(wanted) > MOST_BUCKETS:
        raise errors.OverLimit(f"{owner} mounts {len(wanted)} buckets, and one container can have {MOST_BUCKETS}. Mount fewer.")
    volumes = [VolumeMount(mount.volume_id, mount.mount_path, mount.read_only, ()) for mount in mounts_of(function)]
    buckets = [VolumeMount(f"bucket {mount.mount_path}", mount.mount_path, mount.read_only, ()) for mount in wanted]
    if buckets:
        check_mounts([*volumes, *buckets], owner)


def _refuse_unbuilt(mount: CloudBucketMount, owner: str) -> None:
    lacking = {
        "requester_pays": mount.requester_pays,
        "oidc_auth_role_arn (credentials by OIDC)": bool(mount.oidc_auth_role_arn),
    }
    for option, asked in lacking.items():
        if asked:
            raise errors.NotBuilt(
                f"{owner} mounts bucket {mount.bucket_name!r} with {option}, which is not built yet in Pilotlight. "
                "docs/buckets.md says what there is."
            )


async def look_up_buckets(secrets: Secrets, wanted: Iterable[CloudBucketMount], owner: str) -> list[platform_pb2.BucketMount]:
    """For the node; raises NotFound for a secret that was deleted, InvalidInput for one that has half of the credentials."""
    found: list[platform_pb2.BucketMount] = []
    for mount in wanted:
        variables = await secrets.environment_of([mount.credentials_secret_id] if mount.credentials_secret_id else [])
        credentials = credentials_of(owner, mount.mount_path, variables)
        found.append(
            platform_pb2.BucketMount(
                mount_path=mount.mount_path,
                bucket=mount.bucket_name,
                endpoint=mount.bucket_endpoint_url,
                prefix=mount.key_prefix,
                read_only=mount.read_only,
                path_style=mount.force_path_style or has_no_subdomains(mount.bucket_endpoint_url),
                access_key_id=credentials.key_id,
                secret_access_key=credentials.key,
                session_token=credentials.session_token,
                region=credentials.region,
                metadata_ttl_s=_ttl_of(mount),
            )
        )
    return found


def _ttl_of(mount: CloudBucketMount) -> int:
    if mount.metadata_ttl_type == CloudBucketMount.METADATA_TTL_TYPE_INDEFINITE:
        return LONGEST_TTL_S
    return min(mount.metadata_ttl_seconds, LONGEST_TTL_S)
