"""A DVC remote in the cloud: pushed, cloned, pulled, continued. The other tests of this place use a folder."""

from collections import Counter
from pathlib import Path

import pytest

from reaction.files import sha256


@pytest.fixture
def bucket(monkeypatch) -> str:
    """The address of an S3 server in this process, which has one empty bucket."""
    moto = pytest.importorskip("moto.server", reason="no S3 server: pip install moto[server] dvc-s3")
    pytest.importorskip("dvc_s3")
    import boto3

    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="laboratory")
    yield address
    server.stop()


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in (folder / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files if path.name != ".gitignore"}


@pytest.mark.slow
def test_results_go_to_s3_and_a_colleague_goes_on_from_them(made, bucket, tmp_path):
    made.run("dvc", "remote", "add", "--force", "--default", "cloud", "s3://laboratory/reaction")
    made.run("dvc", "remote", "modify", "cloud", "endpointurl", bucket)
    made.run("dvc", "push")
    made.commit("The results are in the cloud")

    colleague = made.clone(tmp_path / "colleague")
    colleague.run("dvc", "pull")
    colleague.run("snakemake", "--touch", "--forceall", "--cores", "1")
    assert digests(colleague.folder) == digests(made.folder)
    assert not colleague.jobs("dvc", "repro")
    claims = colleague.folder / "workflow/papers/wang2016.yaml"
    claims.write_text(claims.read_text() + "\n")
    assert colleague.jobs("dvc", "repro") == Counter(table=1), "what hangs below a change is made, and nothing else"
    colleague.run("dvc", "push")
    assert "in sync" in colleague.run("dvc", "status", "--cloud").stdout
