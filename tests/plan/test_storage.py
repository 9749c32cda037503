"""What is fetched and what is kept: from settings and the contract to jobs, and back from JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.contract.contract import read_contract
from supervisor.contract.facts import Facts
from supervisor.faults import ContractError
from supervisor.plan.plan import FETCH, Plan, make_plan
from supervisor.storage import job, notices
from supervisor.storage.job import Fetched, FetchJob, Kind, Policy, SyncJob
from supervisor.storage.location import Location, Scheme

BASE = "/opt/ml"


def plan(
    environ: Mapping[str, str],
    hyper: Mapping[str, Any] | None = None,
    *,
    host: str = "algo-1",
    hosts: int = 1,
    **facts: Any,
) -> Plan:
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    files = {
        "hyperparameters.json": {"sagemaker_program": "train.py", **(hyper or {})},
        "resourceconfig.json": {"current_host": host, "hosts": names},
    }
    given = Facts(
        base_dir=BASE,
        environ={"PATH": "/bin", "AWS_ACCESS_KEY_ID": "key", **environ},
        files={name: json.dumps(content).encode() for name, content in files.items()},
        **{"code": frozenset({"train.py"}), **facts},
    )
    return make_plan(read_contract(given))


def fetched(made: Plan) -> FetchJob:
    step = next(spec for spec in made.steps if spec.name == FETCH)
    return job.decode_fetch(step.env[job.VARIABLE])


def kept(made: Plan) -> SyncJob:
    assert made.storage is not None
    return job.decode_sync(made.storage.env[job.VARIABLE])


def test_without_a_place_nothing_is_planned() -> None:
    made = plan({"SUPERVISOR_S3_REGION": "eu-west-1"}, {"model_dir": "/opt/ml/model"})
    assert (made.steps, made.storage) == ((), None)


def test_checkpoints_are_fetched_first_and_kept_while_it_runs() -> None:
    made = plan(
        {
            "SUPERVISOR_CHECKPOINT_S3_URI": "s3://bucket/job/",
            "SUPERVISOR_CHECKPOINT_LOCAL_DIR": "/fast/ckpt",
            "SUPERVISOR_CHECKPOINT_KEEP": "3",
            "SUPERVISOR_S3_PART_BYTES": "16MiB",
        }
    )
    restore = fetched(made).restore
    assert restore is not None
    assert (str(restore.origin), restore.target) == ("s3://bucket/job", "/fast/ckpt")
    (transfer,) = kept(made).transfers
    assert (transfer.kind, transfer.source, str(transfer.target)) == (
        Kind.CHECKPOINTS,
        "/fast/ckpt",
        "s3://bucket/job",
    )
    assert (transfer.policy, transfer.keep) == (Policy.END, 3)
    assert kept(made).options.part_bytes == 16 << 20
    script = made.processes[-1].env
    assert script["SUPERVISOR_CHECKPOINT_DIR"] == "/fast/ckpt"
    assert "SUPERVISOR_RESUMED_FROM" not in script
    assert job.VARIABLE not in script
    assert made.budgets.prepare_s == 600 + 3600, "fetching has time of its own"
    assert made.storage is not None
    assert made.storage.env["AWS_ACCESS_KEY_ID"] == "key"


def test_once_it_is_fetched_the_script_is_told_and_nothing_is_fetched_again() -> None:
    environ = {"SUPERVISOR_CHECKPOINT_S3_URI": "s3://bucket/job"}
    place = "s3://bucket/job/manifests/000007-0011aabb.json"
    made = plan(environ, fetched=Fetched(resumed_from=place))
    assert made.steps == ()
    assert made.processes[-1].env["SUPERVISOR_RESUMED_FROM"] == place
    assert made.storage is not None


@pytest.mark.parametrize("mirror", ["off", "on"])
def test_the_bucket_of_a_model_dir_is_asked_where_it_is(mirror: str) -> None:
    environ = {"SUPERVISOR_MODEL_DIR_MIRROR": mirror}
    hyper = {"model_dir": "s3://bucket/models", "sagemaker_region": "eu-west-1"}
    place = fetched(plan(environ, hyper)).region_of
    assert str(place) == "s3://bucket/models"
    for told, region in (("us-east-2", "us-east-2"), ("", "eu-west-1")):
        after = plan(environ, hyper, fetched=Fetched(bucket_region=told))
        assert after.processes[-1].env["S3_REGION"] == region


def test_the_bucket_is_not_asked_where_the_image_names_its_region() -> None:
    environ = {"SUPERVISOR_MODEL_DIR_MIRROR": "off", "S3_REGION": "sa-east-1"}
    made = plan(environ, {"model_dir": "s3://bucket/models"})
    assert made.steps == ()
    assert made.processes[-1].env["S3_REGION"] == "sa-east-1"


def test_of_several_hosts_the_master_keeps_checkpoints_and_all_are_given_them() -> None:
    environ = {"SUPERVISOR_CHECKPOINT_S3_URI": "s3://bucket/job"}
    member = plan(environ, hosts=3, host="algo-2")
    assert member.storage is None
    assert str(fetched(member).restore.origin) == "s3://bucket/job"  # type: ignore[union-attr]
    assert str(kept(plan(environ, hosts=3)).transfers[0].target) == "s3://bucket/job"
    each = plan({**environ, "SUPERVISOR_CHECKPOINT_HOSTS": "all"}, hosts=3, host="algo-2")
    assert str(kept(each).transfers[0].target) == "s3://bucket/job/algo-2"
    assert str(fetched(each).restore.origin) == "s3://bucket/job/algo-2"  # type: ignore[union-attr]


def test_what_is_kept_is_in_the_order_of_publishing() -> None:
    environ = {
        "SUPERVISOR_LOG_S3_URI": "s3://bucket/logs",
        "SUPERVISOR_LOG_FILES": "true",
        "SUPERVISOR_MODEL_S3_URI": "s3://bucket/model",
        "SUPERVISOR_OUTPUT_S3_URI": "s3://bucket/output",
        "SUPERVISOR_INTERMEDIATE_S3_URI": "s3://bucket/intermediate",
        "SUPERVISOR_CHECKPOINT_S3_URI": "s3://bucket/checkpoints",
        "SUPERVISOR_STORAGE_POLICY": "all=warn, model=fail",
    }
    made = kept(plan(environ, {"model_dir": "s3://bucket/tf"}, hosts=2))
    assert [(each.name, str(each.target), each.policy.value) for each in made.transfers] == [
        ("checkpoints", "s3://bucket/checkpoints", "warn"),
        ("model_dir", "s3://bucket/tf", "warn"),
        ("intermediate", "s3://bucket/intermediate", "warn"),
        ("output", "s3://bucket/output/algo-1", "warn"),
        ("model", "s3://bucket/model", "fail"),
        ("logs", "s3://bucket/logs/algo-1", "warn"),
    ]
    assert [each.name for each in made.transfers if each.grows] == ["logs"]
    member = kept(plan(environ, hosts=2, host="algo-2"))
    assert {each.name for each in member.transfers} == {"intermediate", "output", "logs"}


def test_channels_are_shared_out_among_the_hosts_where_that_is_asked() -> None:
    environ = {
        "SUPERVISOR_CHANNEL_TRAIN": "s3://bucket/train",
        "SUPERVISOR_CHANNEL_TEST": "file:///data/my%20test",
        "SUPERVISOR_CHANNEL_SHARD": "train",
    }
    trees = {tree.name: tree for tree in fetched(plan(environ, hosts=4, host="algo-3")).trees}
    train, test = trees["channel train"], trees["channel test"]
    assert (train.shard, train.shards, train.target) == (2, 4, f"{BASE}/input/data/train")
    assert (test.shards, test.origin.key) == (1, "/data/my test")


def test_the_source_is_fetched_with_its_limits() -> None:
    hyper = {"sagemaker_submit_directory": "s3://bucket/code/sourcedir.tar.gz"}
    made = plan({"SUPERVISOR_SOURCE_MAX_BYTES": "1GiB"}, hyper, code=frozenset())
    source = fetched(made).source
    assert source is not None
    assert (source.target, source.max_bytes) == (f"{BASE}/code", 1 << 30)
    assert [spec.name for spec in made.steps] == [FETCH]
    code = frozenset({"train.py", "requirements.txt"})
    after = plan({}, hyper, code=code, fetched=Fetched())
    assert [spec.name for spec in after.steps] == ["requirements"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://bucket/x", "s3://BUCKET/PREFIX, file:///DIRECTORY, or an absolute path"),
        ("relative/dir", "an absolute path"),
        ("file://host/dir", "three slashes"),
        ("s3://", "the name of a bucket"),
        ("s3://bucket/a/../b", "without the parts . and .."),
    ],
)
def test_a_place_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ContractError, match=r"SUPERVISOR_CHECKPOINT_S3_URI") as caught:
        plan({"SUPERVISOR_CHECKPOINT_S3_URI": text})
    assert said in str(caught.value)


def test_nothing_is_kept_inside_of_itself() -> None:
    with pytest.raises(ContractError, match=r"outside of /opt/ml/checkpoints, its source"):
        plan({"SUPERVISOR_CHECKPOINT_S3_URI": "/opt/ml/checkpoints/kept"})
    plan({"SUPERVISOR_CHECKPOINT_S3_URI": "/opt/ml/checkpoints-kept"})


def test_bad_sizes_and_policies_are_refused_with_the_remedy() -> None:
    with pytest.raises(ContractError) as caught:
        plan(
            {
                "SUPERVISOR_S3_PART_BYTES": "1MiB",
                "SUPERVISOR_S3_BANDWIDTH_BYTES_S": "fast",
                "SUPERVISOR_STORAGE_POLICY": "checkpoints=maybe",
                "SUPERVISOR_S3_ENCRYPTION": "rot13",
                "SUPERVISOR_S3_ENDPOINT": "minio:9000",
            }
        )
    text = str(caught.value)
    assert "SUPERVISOR_S3_PART_BYTES: found '1MiB'; expected bytes, such as" in text
    assert "SUPERVISOR_S3_BANDWIDTH_BYTES_S: found 'fast'" in text
    assert "warn, end or fail" in text
    assert "aws:kms" in text
    assert "http://HOST:PORT" in text
    with pytest.raises(ContractError, match="one part must fit"):
        plan({"SUPERVISOR_S3_PART_BYTES": "64MiB"})


def test_places_keep_what_an_object_key_may_hold() -> None:
    place = Location.parse("s3://my-bucket/a b/ü+%20/c#d?")
    assert (place.scheme, place.bucket, place.key) == (Scheme.S3, "my-bucket", "a b/ü+%20/c#d?")
    assert str(place.child("e f")) == "s3://my-bucket/a b/ü+%20/c#d?/e f"
    arn = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
    assert Location.parse(f"s3://{arn}/a").bucket == arn


_names = st.text(max_size=20)
_counts = st.integers(0, 1 << 50)


@given(
    st.one_of(
        st.builds(
            notices.State,
            st.lists(st.builds(notices.Standing, _names, _counts, _counts), max_size=3).map(tuple),
        ),
        st.builds(
            notices.Said,
            _names,
            st.just("info"),
            st.lists(st.tuples(_names, _names | _counts), max_size=3).map(tuple),
        ),
        st.builds(notices.Failed, _names, _names),
        st.builds(
            notices.PublishedAll,
            st.lists(
                st.builds(
                    notices.Unsent,
                    _names,
                    _counts,
                    _counts,
                    st.lists(_names, max_size=3).map(tuple),
                    _names,
                ),
                max_size=3,
            ).map(tuple),
        ),
        st.builds(notices.PublishNow, st.floats(0, 1e6), st.booleans()),
    )
)
def test_notices_survive_the_pipe(notice: notices.Notice) -> None:
    line = notices.encode(notice)
    assert line.count(b"\n") == 1
    assert notices.decode(line) == notice


@given(st.binary(max_size=200))
def test_what_is_no_notice_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        notices.decode(line)


def test_what_was_fetched_is_json() -> None:
    assert Fetched().resumed_from == ""
