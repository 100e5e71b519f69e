"""Clients of S3 that people use, unmodified: each makes a bucket, carries files there and back, and takes all away.

Small files by the hundred and one that goes in parts, on the port without TLS and on the one with. HANSA_LONG takes more,
and ten thousand and 5 GiB with rclone.
"""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from obstore.store import S3Store

from .conftest import LONG, PYTHON, Cloud, Tree

AWS = "/usr/bin/aws"  # Debian's: version 2


def names(tree: Tree) -> list[str]:
    return sorted(file.relative_to(tree.folder).as_posix() for file in tree.folder.rglob("*") if file.is_file())


# -- boto3 ------------------------------------------------------------------------------------------


def boto(cloud: Cloud, **more: Any) -> Any:
    return boto3.client(
        "s3", endpoint_url=cloud.endpoint, region_name=cloud.variables["AWS_DEFAULT_REGION"],
        aws_access_key_id=cloud.variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=cloud.variables["AWS_SECRET_ACCESS_KEY"],
        verify=str(cloud.authority) if cloud.secure else None, config=Config(max_pool_connections=16, **more),
    )  # fmt: skip


def test_boto3(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    s3 = boto(cloud)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "se-sto"})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: s3.upload_file(str(tree.folder / name), bucket, name), names(tree)))
    s3.upload_file(str(tree.large), bucket, "large.bin", Config=TransferConfig(max_concurrency=4))
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    seen = {each["Key"]: each["Size"] for page in pages for each in page["Contents"]}
    assert len(seen) == tree.files + 1 and seen["large.bin"] == tree.large_bytes
    back = tmp_path / "back"

    def fetch(name: str) -> None:
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, name, str(back / name))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, names(tree)))
    tree.same(back)
    s3.download_file(bucket, "large.bin", str(tmp_path / "large"))
    tree.same_large(tmp_path / "large")
    everything = list(seen)
    for start in range(0, len(everything), 1000):
        keys = [{"Key": key} for key in everything[start : start + 1000]]
        assert "Errors" not in s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    s3.delete_bucket(Bucket=bucket)
    s3.close()


def test_boto3_with_buckets_as_hosts(cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names below localhost are this machine's by RFC 6761; not every resolver here knows that."""
    known = socket.getaddrinfo

    def resolved(host: Any, *words: Any, **more: Any) -> Any:
        return known("127.0.0.1" if str(host).endswith(".localhost") else host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    variables = {**cloud.variables, "AWS_ENDPOINT_URL_S3": cloud.endpoint.replace("127.0.0.1", "s3.localhost")}
    s3 = boto(Cloud(cloud.data, variables, cloud.secure), s3={"addressing_style": "virtual"})
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "se-sto"})
    s3.put_object(Bucket=bucket, Key="ä b/c", Body=b"by host")
    answer = s3.get_object(Bucket=bucket, Key="ä b/c")
    assert answer["Body"].read() == b"by host" and f"{bucket}.s3.localhost" in s3.generate_presigned_url(
        "get_object", {"Bucket": bucket, "Key": "k"}
    )
    s3.delete_object(Bucket=bucket, Key="ä b/c")
    s3.delete_bucket(Bucket=bucket)
    s3.close()


# -- the command line of AWS ------------------------------------------------------------------------


def test_aws_command_line(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    end = ("--endpoint-url", cloud.endpoint)  # version 2.9 does not know the variable yet
    cloud.run(AWS, "s3", "mb", f"s3://{bucket}", *end)
    cloud.run(AWS, "s3", "sync", tree.folder, f"s3://{bucket}/small", "--only-show-errors", *end)
    cloud.run(AWS, "s3", "cp", tree.large, f"s3://{bucket}/", "--only-show-errors", *end)
    listed = json.loads(cloud.run(AWS, "s3api", "list-objects-v2", "--bucket", bucket, "--output", "json", *end))
    assert len(listed["Contents"]) == tree.files + 1
    again = cloud.run(AWS, "s3", "sync", tree.folder, f"s3://{bucket}/small", *end)
    assert "upload" not in again
    cloud.run(AWS, "s3", "sync", f"s3://{bucket}/small", tmp_path / "back", "--only-show-errors", *end)
    tree.same(tmp_path / "back")
    cloud.run(AWS, "s3", "cp", f"s3://{bucket}/large.bin", tmp_path / "large", "--only-show-errors", *end)
    tree.same_large(tmp_path / "large")
    cloud.run(AWS, "s3", "rb", f"s3://{bucket}", "--force", *end)


# -- rclone -----------------------------------------------------------------------------------------


def rclone(cloud: Cloud, *words: str | Path) -> str:
    settings = {
        "TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": cloud.endpoint,
        "REGION": cloud.variables["AWS_DEFAULT_REGION"], "LOCATION_CONSTRAINT": "se-sto",
    }  # fmt: skip
    variables = {f"RCLONE_CONFIG_HANSA_{name}": value for name, value in settings.items()}
    trust = ("--ca-cert", str(cloud.authority)) if cloud.secure else ()
    variables["AWS_CA_BUNDLE"] = ""  # version 1.60 fails where it is set
    return cloud.run("rclone", "--config", "/dev/null", *trust, "--transfers", "8", *words, **variables)


def test_rclone(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    there_and_back_by_rclone(cloud, bucket, tree, tmp_path)


@pytest.mark.skipif(not LONG, reason="of the long tier")
@pytest.mark.parametrize("cloud", ["plain"], indirect=True)
def test_rclone_and_very_much(cloud: Cloud, bucket: str, huge_tree: Tree, tmp_path: Path) -> None:
    there_and_back_by_rclone(cloud, bucket, huge_tree, tmp_path)


def there_and_back_by_rclone(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    rclone(cloud, "mkdir", f"hansa:{bucket}")
    rclone(cloud, "sync", tree.folder, f"hansa:{bucket}/small")
    rclone(cloud, "check", tree.folder, f"hansa:{bucket}/small")
    rclone(cloud, "copyto", tree.large, f"hansa:{bucket}/large.bin", "--s3-upload-cutoff", "16M")
    assert json.loads(rclone(cloud, "size", "--json", f"hansa:{bucket}"))["count"] == tree.files + 1
    rclone(cloud, "sync", f"hansa:{bucket}/small", tmp_path / "back")
    tree.same(tmp_path / "back")
    rclone(cloud, "copyto", f"hansa:{bucket}/large.bin", tmp_path / "large")
    tree.same_large(tmp_path / "large")
    rclone(cloud, "purge", f"hansa:{bucket}")
    assert bucket not in rclone(cloud, "lsd", "hansa:")


# -- s3cmd ------------------------------------------------------------------------------------------


def test_s3cmd(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    settings = {
        "access_key": cloud.variables["AWS_ACCESS_KEY_ID"], "secret_key": cloud.variables["AWS_SECRET_ACCESS_KEY"],
        "host_base": cloud.place, "host_bucket": cloud.place, "bucket_location": "se-sto",
        "use_https": str(cloud.secure), "ca_certs_file": str(cloud.authority), "check_ssl_hostname": "True",
    }  # fmt: skip
    file = tmp_path / "s3cfg"
    file.write_text("[default]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))

    def s3cmd(*words: str | Path) -> str:
        return cloud.run("s3cmd", "-c", file, "--no-progress", "-q", *words)

    s3cmd("mb", f"s3://{bucket}")
    s3cmd("sync", f"{tree.folder}/", f"s3://{bucket}/small/")
    s3cmd("put", tree.large, f"s3://{bucket}/large.bin")
    assert len(cloud.run("s3cmd", "-c", file, "ls", "-r", f"s3://{bucket}").splitlines()) == tree.files + 1
    (tmp_path / "back").mkdir()
    s3cmd("sync", f"s3://{bucket}/small/", f"{tmp_path}/back/")
    tree.same(tmp_path / "back")
    s3cmd("get", f"s3://{bucket}/large.bin", tmp_path / "large")
    tree.same_large(tmp_path / "large")
    s3cmd("del", "-r", "-f", f"s3://{bucket}/")
    s3cmd("rb", f"s3://{bucket}")


# -- obstore ----------------------------------------------------------------------------------------


def test_obstore(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    made = boto(cloud)
    made.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "se-sto"})
    options: dict[str, Any] = {"allow_http": True}
    if cloud.secure:  # its TLS reads no file of authorities
        options = {"allow_invalid_certificates": True}
    store = S3Store(
        bucket, endpoint=cloud.endpoint, region="se-sto", access_key_id=cloud.variables["AWS_ACCESS_KEY_ID"],
        secret_access_key=cloud.variables["AWS_SECRET_ACCESS_KEY"], client_options=options,
    )  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: obstore.put(store, name, (tree.folder / name).read_bytes()), names(tree)))
    obstore.put(store, "large.bin", tree.large, chunk_size=8 << 20, max_concurrency=4)
    listed = [item["path"] for batch in obstore.list(store) for item in batch]
    assert sorted(listed) == sorted([*names(tree), "large.bin"])
    back = tmp_path / "back"

    def fetch(name: str) -> None:
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes(bytes(obstore.get(store, name).bytes()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, names(tree)))
    tree.same(back)
    with (tmp_path / "large").open("wb") as out:
        for piece in obstore.get(store, "large.bin").stream(min_chunk_size=1 << 20):
            out.write(bytes(piece))
    tree.same_large(tmp_path / "large")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "large.bin", b"x", mode="create")
    obstore.delete(store, listed)
    made.delete_bucket(Bucket=bucket)
    made.close()


# -- s3fs -------------------------------------------------------------------------------------------

S3FS = """
import os, sys
import s3fs
bucket, folder, large, back = sys.argv[1:]
more = {"verify": os.environ["AWS_CA_BUNDLE"]} if "AWS_CA_BUNDLE" in os.environ else {}
fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], client_kwargs={"region_name": "se-sto", **more})
fs.mkdir(bucket, region_name="se-sto")
fs.put(folder, f"{bucket}/small", recursive=True)
fs.put(large, f"{bucket}/large.bin")
print(len(fs.find(bucket)))
fs.get(f"{bucket}/small", f"{back}/back", recursive=True)
fs.get(f"{bucket}/large.bin", f"{back}/large")
with fs.open(f"{bucket}/large.bin", "rb", block_size=1 << 20) as file:
    file.seek(12_345_678)
    print(file.read(16).hex())
with fs.open(f"{bucket}/written.txt", "wb") as file:
    file.write(b"by fsspec")
print(fs.cat(f"{bucket}/written.txt").decode())
fs.rm(bucket, recursive=True)
"""


def test_s3fs(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    said = cloud.run(PYTHON, "-c", S3FS, bucket, tree.folder, tree.large, tmp_path, PYTHONPATH="").splitlines()
    with tree.large.open("rb") as source:
        source.seek(12_345_678)
        assert said == [str(tree.files + 1), source.read(16).hex(), "by fsspec"]
    tree.same(tmp_path / "back")
    tree.same_large(tmp_path / "large")


# -- our own ----------------------------------------------------------------------------------------


def test_hansa_bucket(cloud: Cloud, bucket: str, tree: Tree, tmp_path: Path) -> None:
    def hansa(*words: str | Path) -> str:
        return cloud.run(sys.executable, "-m", "hansa", "bucket", *words)

    hansa("mb", f"s3://{bucket}")
    hansa("sync", tree.folder, f"s3://{bucket}/small", "-q")
    assert hansa("sync", tree.folder, f"s3://{bucket}/small") == ""
    hansa("cp", tree.large, f"s3://{bucket}/", "-q")
    assert len(hansa("ls", "-r", f"s3://{bucket}").splitlines()) == tree.files + 1
    assert hansa("du", f"s3://{bucket}", "--bytes").split()[1] == str(tree.files + 1)
    hansa("sync", f"s3://{bucket}/small", tmp_path / "back", "-q")
    tree.same(tmp_path / "back")
    hansa("cp", f"s3://{bucket}/large.bin", tmp_path / "large", "-q")
    tree.same_large(tmp_path / "large")
    hansa("rm", "-r", f"s3://{bucket}/")
    hansa("rb", f"s3://{bucket}")
