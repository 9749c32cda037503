"""The contract: what the platform's files mean, and every fault of a bad one at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from supervisor.contract.contract import Contract, read_contract
from supervisor.contract.distribution import SWITCHES, UNSUPPORTED, Strategy
from supervisor.contract.entry_point import EntryKind
from supervisor.contract.facts import Facts
from supervisor.contract.reading import parse_settings
from supervisor.contract.settings import TABLE
from supervisor.faults import ContractError
from supervisor.life.attempts import Rules
from supervisor.plan.arguments import script_arguments
from supervisor.plan.environment import script_environment
from supervisor.storage.job import Fetched

BASE = "/opt/ml"
HYPER: dict[str, Any] = {"sagemaker_program": '"train.py"'}
RESOURCES: dict[str, Any] = {"current_host": "algo-1", "hosts": ["algo-1"]}


def facts(
    hyper: object = None,
    resources: object = None,
    channels: object = None,
    overlay: object = None,
    *,
    environ: Mapping[str, str] | None = None,
    code: frozenset[str] | None = frozenset({"train.py"}),
    raw: Mapping[str, bytes] | None = None,
    absent: frozenset[str] = frozenset(),
) -> Facts:
    files = {
        "hyperparameters.json": json.dumps(HYPER if hyper is None else hyper).encode(),
        "resourceconfig.json": json.dumps(RESOURCES if resources is None else resources).encode(),
    }
    if channels is not None:
        files["inputdataconfig.json"] = json.dumps(channels).encode()
    if overlay is not None:
        files["supervisorconfig.json"] = json.dumps(overlay).encode()
    files.update(raw or {})
    return Facts(
        base_dir=BASE,
        environ=environ or {"PATH": "/bin"},
        files={name: content for name, content in files.items() if name not in absent},
        code=code,
    )


def read(*args: Any, **kwargs: Any) -> Contract:
    return read_contract(facts(*args, **kwargs))


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ContractError) as caught:
        read(*args, **kwargs)
    assert len(str(caught.value).splitlines()) == len(caught.value.faults)
    return str(caught.value)


def group(name: str, *hosts: str) -> list[dict[str, Any]]:
    return [{"instance_group_name": name, "instance_type": "ml.c5.xlarge", "hosts": list(hosts)}]


def test_a_plain_contract() -> None:
    contract = read({**HYPER, "lr": "0.1", "name": "x y", "layers": "[1, 2]"})
    assert contract.hyperparameters == {"lr": 0.1, "name": "x y", "layers": [1, 2]}
    assert contract.entry_point == "train.py"
    assert contract.entry_kind is EntryKind.SCRIPT
    assert contract.strategy is Strategy.NONE
    assert contract.master == "algo-1"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"raw": {"resourceconfig.json": b""}}, ["resourceconfig.json", "malformed JSON"]),
        ({"raw": {"supervisorconfig.json": b" "}}, ["supervisorconfig.json", "malformed JSON"]),
        ({"raw": {"resourceconfig.json": b"{"}}, ["resourceconfig.json", "malformed JSON"]),
        ({"raw": {"hyperparameters.json": b"\xff\xfe{"}}, ["hyperparameters.json", "malformed"]),
        ({"raw": {"hyperparameters.json": b"[]"}}, ["hyperparameters.json", "list", "object"]),
        ({"raw": {"inputdataconfig.json": b"3"}}, ["inputdataconfig.json", "int"]),
        ({"channels": {"train": "s3"}}, ["inputdataconfig.json: train", "'s3'", "object"]),
        ({"resources": {**RESOURCES, "hosts": []}}, ["hosts", "[]", "one host name or more"]),
        ({"resources": {**RESOURCES, "hosts": "algo-1"}}, ["hosts", "'algo-1'", "list"]),
        ({"resources": {**RESOURCES, "hosts": ["algo-1", 7]}}, ["hosts", "7", "string"]),
        (
            {"resources": {"current_host": "algo-1", "hosts": ["algo-1", "algo-2", "algo-2"]}},
            ["hosts", "algo-2 2 times", "each host once"],
        ),
        (
            {"resources": {"current_host": "algo-9", "hosts": ["algo-1", "algo-2"]}},
            ["current_host", "algo-9", "algo-1, algo-2"],
        ),
        ({"resources": {"hosts": ["algo-1"]}}, ["current_host", "None"]),
        (
            {"resources": {**RESOURCES, "hosts": ["algo-1", "a\n"]}},
            ["hosts", r"'a\n'", "no blanks"],
        ),
        ({"resources": {**RESOURCES, "current_group_name": {}}}, ["current_group_name", "{}"]),
        (
            {"resources": {**RESOURCES, "instance_groups": group("gpu", "algo-1", "algo-7")}},
            ["resourceconfig.json: instance_groups[gpu].hosts", "['algo-7']", "hosts of the job"],
        ),
        (
            {
                "hyper": {**HYPER, "sagemaker_parameter_server_enabled": "true"},
                "resources": {
                    "current_host": "algo-1",
                    "hosts": ["algo-1", "algo-2", "algo-3"],
                    "instance_groups": group("gpu", "algo-2", "algo-3") + group("cpu", "algo-1"),
                    "current_group_name": "gpu",
                },
            },
            ["resourceconfig.json: current_group_name", "'gpu'", "that algo-1 is in"],
        ),
        ({"hyper": {**HYPER, "sagemaker_region": "7"}}, ["sagemaker_region", "7", "a string"]),
        (
            {"hyper": {**HYPER, "sagemaker_s3_output": '"s3://"'}},
            ["sagemaker_s3_output", "'s3://'", "bucket"],
        ),
        ({"hyper": {}}, ["sagemaker_program", "nothing", "SAGEMAKER_PROGRAM"]),
        ({"hyper": {**HYPER, "a": "x\0y"}}, ["hyperparameters.json: a", r"'x\x00y'", "no NUL"]),
        ({"hyper": {**HYPER, "a\ud800": "1"}}, [r"found 'a\ud800'", "no half of a character"]),
        ({"hyper": {"sagemaker_program": "7"}}, ["sagemaker_program", "7", "string"]),
        (
            {"hyper": {"sagemaker_program": "other.py"}},
            ["sagemaker_program", "other.py", "/opt/ml/code", "there is none"],
        ),
        (
            {"hyper": {**HYPER, "sagemaker_parameter_server_enabled": '"maybe"'}},
            ["sagemaker_parameter_server_enabled", "'maybe'", "true or false"],
        ),
        (
            {
                "hyper": {
                    **HYPER,
                    "sagemaker_parameter_server_enabled": "true",
                    "sagemaker_multi_worker_mirrored_strategy_enabled": "true",
                }
            },
            ["both true", "at most one"],
        ),
        (
            {"environ": {"SUPERVISOR_STOP_GRACE": "9"}},
            ["SUPERVISOR_STOP_GRACE", "did you mean SUPERVISOR_STOP_GRACE_S?"],
        ),
        ({"environ": {"SUPERVISOR_STATUS_PORT": "http"}}, ["SUPERVISOR_STATUS_PORT", "'http'"]),
        ({"environ": {"SUPERVISOR_STATUS_PORT": "70000"}}, ["'70000'", "1 to 65535"]),
        ({"environ": {"SUPERVISOR_STOP_LIMIT_S": "-1"}}, ["SUPERVISOR_STOP_LIMIT_S", "'-1'"]),
        ({"environ": {"SUPERVISOR_ACK_TIMEOUT_S": "nan"}}, ["SUPERVISOR_ACK_TIMEOUT_S", "'nan'"]),
        (
            {"environ": {"SUPERVISOR_TOKEN": "from-a-file\n"}},
            ["SUPERVISOR_TOKEN", "not shown", "line"],
        ),
        ({"environ": {"SUPERVISOR_TOKEN": "\udcff"}}, ["SUPERVISOR_TOKEN", "printable"]),
        ({"environ": {"SUPERVISOR_LOG_FORMAT": "xml"}}, ["'xml'", "raw, prefix, json"]),
        ({"environ": {"SUPERVISOR_LOG_PREFIX": "{pid}"}}, ["{pid}", "{host}"]),
        (
            {"environ": {"SUPERVISOR_SERVER_GRACE_S": "5", "SUPERVISOR_STOP_LIMIT_S": "5"}},
            ["SUPERVISOR_STOP_LIMIT_S: found 5;", "less 6.95833", "raise the limit"],
        ),
        (
            {"environ": {"SUPERVISOR_STOP_GRACE_S": "119"}},
            ["SUPERVISOR_STOP_GRACE_S", "119", "at most 92", "raise the limit"],
        ),
        (
            {"overlay": {"hosts": {"algo-1": {"ports": {"ps": "2223"}}}}},
            ["supervisorconfig.json: hosts.algo-1.ports.ps", "'2223'"],
        ),
        ({"overlay": {"hosts": {"algo-7": {}}}}, ["hosts.algo-7", "a host of resourceconfig.json"]),
        ({"overlay": {"argv": []}}, ["supervisorconfig.json: argv", "hosts and arguments"]),
    ],
)
def test_bad_input_is_one_line_with_file_key_value_and_remedy(
    case: dict[str, Any], words: list[str]
) -> None:
    text = refusal(**case)
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


def test_all_faults_are_said_at_once() -> None:
    text = refusal(
        hyper={"sagemaker_parameter_server_enabled": "1"},
        resources={"current_host": "x", "hosts": ["algo-1", "algo-1"]},
        environ={"SUPERVISOR_STATUS_PORT": "0", "SUPERVISOR_TOKENS": "a"},
    )
    assert len(text.splitlines()) == 6


def test_a_secret_is_not_shown_in_a_fault() -> None:
    text = refusal(environ={"SUPERVISOR_TOKEM": "hunter22"})
    assert "did you mean SUPERVISOR_TOKEN?" in text
    assert "hunter22" not in text


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("train.py", {"train.py"}, EntryKind.SCRIPT),
        ("src/train.py", {"src/train.py"}, EntryKind.SCRIPT),
        ("train.py", {"train.py", "setup.py"}, EntryKind.PACKAGE),
        ("train.py", {"train.py", "pyproject.toml"}, EntryKind.SCRIPT),
        ("trainer", {"pyproject.toml", "trainer/__main__.py"}, EntryKind.PACKAGE),
        ("-m pkg.train", {"pkg/train.py"}, EntryKind.MODULE),
        ("run.sh", {"run.sh", "setup.py"}, EntryKind.COMMAND),
        ("program", {"program"}, EntryKind.COMMAND),
    ],
)
def test_kinds_of_entry_points(name: str, code: set[str], kind: EntryKind) -> None:
    contract = read({"sagemaker_program": name}, code=frozenset(code))
    assert contract.entry_kind is kind


def test_an_empty_resource_configuration_is_refused_key_by_key() -> None:
    """It was taken for one whose fault had been said already, and the plan broke."""
    text = refusal(resources={})
    assert "resourceconfig.json: hosts: found None" in text
    assert "resourceconfig.json: current_host: found None" in text


def test_without_a_resource_configuration_this_is_the_only_host() -> None:
    """``docker run IMAGE train`` on a desk was refused."""
    contract = read(absent=frozenset({"resourceconfig.json"}))
    assert contract.hosts == ("localhost",)
    assert contract.current_host == contract.master == "localhost"
    [note] = contract.notes
    assert note.startswith("/opt/ml/input/config/resourceconfig.json is missing, so this host")
    hyper = {**HYPER, "sagemaker_parameter_server_enabled": "true"}
    assert read(hyper, absent=frozenset({"resourceconfig.json"})).ps_ignored


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n"])
def test_an_empty_file_of_hyperparameters_or_channels_is_none(content: bytes) -> None:
    empty = dict.fromkeys(("hyperparameters.json", "inputdataconfig.json"), content)
    contract = read(raw=empty, environ={"SAGEMAKER_PROGRAM": "train.py"})
    assert (contract.entry_point, contract.hyperparameters) == ("train.py", {})
    assert contract.input_data_config == {}


def test_the_environment_names_what_hyperparameters_do_not() -> None:
    contract = read({}, environ={"SAGEMAKER_PROGRAM": "train.py", "SAGEMAKER_REGION": "eu-west-1"})
    assert (contract.entry_point, contract.region) == ("train.py", "eu-west-1")
    program = {"SAGEMAKER_PROGRAM": "other.py"}
    both = read(HYPER, environ=program, code=frozenset({"train.py", "other.py"}))
    assert both.entry_point == "other.py", "as in the predecessor"


def test_the_distribution_is_that_of_the_chosen_groups_and_its_first_host_the_master() -> None:
    """The predecessor probed the first of all hosts while TF_CONFIG used the distribution's."""
    resources = {
        "current_host": "algo-3",
        "hosts": ["algo-1", "algo-2", "algo-3", "algo-4"],
        "current_group_name": "gpu",
        "instance_groups": [
            {"instance_group_name": "cpu", "instance_type": "c", "hosts": ["algo-1", "algo-2"]},
            {"instance_group_name": "gpu", "instance_type": "g", "hosts": ["algo-3", "algo-4"]},
        ],
    }
    hyper = {
        **HYPER,
        "sagemaker_parameter_server_enabled": "true",
        "sagemaker_distribution_instance_groups": '["gpu"]',
    }
    contract = read(hyper, resources)
    assert contract.distribution_hosts == ("algo-3", "algo-4")
    assert contract.master == "algo-3"
    outside = read(hyper, {**resources, "current_host": "algo-1"})
    assert (outside.distribution_hosts, outside.strategy) == (("algo-1",), Strategy.NONE)
    assert "['tpu']" in refusal(
        {**hyper, "sagemaker_distribution_instance_groups": '["tpu"]'}, resources
    )


def test_distribution_groups_of_null_are_those_of_this_host() -> None:
    """The environment of the script was made from the null, and could not be."""
    resources = {
        **RESOURCES,
        "instance_groups": group("gpu", "algo-1"),
        "current_group_name": "gpu",
    }
    hyper = {**HYPER, "sagemaker_parameter_server_enabled": "true"}
    null = {**hyper, "sagemaker_distribution_instance_groups": "null"}
    key = "SM_DISTRIBUTION_INSTANCE_GROUPS"
    assert script_environment(read(null, resources))[key] == '["gpu"]'


def test_parameter_servers_on_one_host_are_ignored_and_said() -> None:
    contract = read({**HYPER, "sagemaker_parameter_server_enabled": "true"})
    assert (contract.strategy, contract.ps_ignored) == (Strategy.NONE, True)


def test_tuning_jobs_get_a_model_directory_of_their_own() -> None:
    hyper = {
        **HYPER,
        "_tuning_objective_metric": "loss",
        "sagemaker_job_name": "trial-7",
        "model_dir": "s3://bucket/prefix",
    }
    own = "s3://bucket/prefix/trial-7/model"
    plain = read(hyper, environ={"SUPERVISOR_MODEL_DIR_MIRROR": "off"})
    assert (plain.hyperparameters, plain.model_dir_uri) == ({"model_dir": own}, "")
    mirrored = read(hyper)
    assert mirrored.hyperparameters == {"model_dir": f"{BASE}/model_dir"}
    assert mirrored.model_dir_uri == own
    local = {**hyper, "model_dir": "/opt/ml/model"}
    assert read(local).hyperparameters == {"model_dir": "/opt/ml/model"}


@pytest.mark.parametrize(
    ("version", "io", "setting", "mirrored"),
    [
        ("2.21.0", False, "auto", True),
        ("2.21.0", True, "auto", False),
        ("1.15.5", False, "auto", False),
        ("2.21.0", True, "on", True),
        ("2.21.0", False, "off", False),
    ],
)
def test_a_model_directory_in_s3_has_a_local_one_where_tensorflow_cannot_write_there(
    version: str, io: bool, setting: str, mirrored: bool
) -> None:
    given = facts(
        {**HYPER, "model_dir": "s3://bucket/models"},
        environ={"SUPERVISOR_MODEL_DIR_MIRROR": setting},
    )
    contract = read_contract(given._replace(tensorflow_version=version, tensorflow_io=io))
    assert contract.model_dir_uri == ("s3://bucket/models" if mirrored else "")
    shown = f"{BASE}/model_dir" if mirrored else "s3://bucket/models"
    assert contract.hyperparameters["model_dir"] == shown


def test_code_is_fetched_where_there_is_none_and_then_decides_what_is_run() -> None:
    hyper = {**HYPER, "sagemaker_submit_directory": "s3://bucket/job/source/sourcedir.tar.gz"}
    given = facts(hyper, code=frozenset())
    before = read_contract(given)
    assert before.source == "s3://bucket/job/source/sourcedir.tar.gz"
    assert before.entry_kind is EntryKind.SCRIPT
    code = frozenset({"train.py", "setup.py", "requirements.txt"})
    after = read_contract(
        given._replace(code=code, fetched=Fetched(resumed_from="s3://bucket/c/1"))
    )
    assert (after.source, after.entry_kind) == ("", EntryKind.PACKAGE)
    assert after.has_requirements
    assert after.fetched == Fetched(resumed_from="s3://bucket/c/1")
    with pytest.raises(ContractError, match=r"sagemaker_program: found 'train\.py'"):
        read_contract(given._replace(code=frozenset({"other.py"}), fetched=Fetched()))


def test_code_that_is_here_is_not_fetched() -> None:
    hyper = {**HYPER, "sagemaker_submit_directory": "s3://bucket/job/source/sourcedir.tar.gz"}
    assert read(hyper).source == ""
    half = frozenset({"train.py", ".supervisor-incomplete"})
    assert read_contract(facts(hyper, code=half)).source, "a kill while it was moved in"
    assert read({**HYPER, "sagemaker_submit_directory": f"{BASE}/code"}).source == ""


def test_a_submit_directory_that_is_no_place_is_refused_where_code_is_needed() -> None:
    hyper = {**HYPER, "sagemaker_submit_directory": "ftp://host/code.tar"}
    assert "s3://BUCKET/PREFIX" in refusal(hyper, code=frozenset())


def test_channels_of_our_own_are_channels_like_others() -> None:
    environ = {
        "SUPERVISOR_CHANNEL_TRAIN": "s3://bucket/train",
        "SUPERVISOR_CHANNEL_eval": "/mnt/eval",
        "SUPERVISOR_CHANNEL_SHARD": "train",
    }
    contract = read(channels={"test": {"TrainingInputMode": "File"}}, environ=environ)
    kinds = {
        name: channel.get("S3DistributionType")
        for name, channel in contract.input_data_config.items()
    }
    assert kinds == {"test": None, "eval": "FullyReplicated", "train": "ShardedByS3Key"}
    assert script_environment(contract)["SM_CHANNEL_TRAIN"] == f"{BASE}/input/data/train"
    faults = refusal(environ={"SUPERVISOR_CHANNEL_A": "b/c", "SUPERVISOR_CHANNEL_": "/x"})
    assert "SUPERVISOR_CHANNEL_A: found 'b/c'; expected s3://BUCKET/PREFIX" in faults
    assert "SUPERVISOR_CHANNEL_: found '/x'; expected SUPERVISOR_CHANNEL_ and a name" in faults


def test_intermediate_output_goes_below_the_job_unless_the_platform_takes_care_of_it() -> None:
    hyper = {**HYPER, "sagemaker_s3_output": "s3://bucket/out", "sagemaker_job_name": "job-7"}
    given = facts(hyper)
    assert read_contract(given).intermediate_uri == "s3://bucket/out/job-7/output/intermediate"
    assert read_contract(given._replace(intermediate_exists=True)).intermediate_uri == ""
    assert read({**hyper, "sagemaker_s3_output": "file:///out"}).intermediate_uri == ""


def test_hyperparameters_become_sorted_arguments() -> None:
    given = {"lr": 0.1, "b": 2, "name": "a b; $(x)", "map": {"k": 1, "a": None}, "none": None}
    assert script_arguments(given) == (
        "-b", "2", "--lr", "0.1", "--map", "a=None,k=1", "--name", "a b; $(x)", "--none", "",
    )  # fmt: skip


def test_the_scripts_environment_is_the_predecessors() -> None:
    """Recorded from ``sagemaker-training`` 5.1.4 on the same files."""
    hyper = {**HYPER, "lr": "0.1", "d": '{"b": 1, "a": "z"}', "n": "null", "ünï": '"é"'}
    resources = {**RESOURCES, "network_interface_name": "eth0"}
    contract = read(
        hyper,
        resources,
        {"train": {"TrainingInputMode": "File"}},
        environ={"PATH": "/bin", "SUPERVISOR_TOKEN": "geheim-geheim", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    env = script_environment(contract)
    expected = {
        "CURRENT_HOST": "algo-1",
        "PATH": "/bin",
        "SM_CHANNELS": '["train"]',
        "SM_CHANNEL_TRAIN": "/opt/ml/input/data/train",
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": "[]",
        "SM_CURRENT_INSTANCE_TYPE": "local",
        "SM_HOSTS": '["algo-1"]',
        "SM_HPS": '{"d":{"a":"z","b":1},"lr":0.1,"n":null,"\\u00fcn\\u00ef":"\\u00e9"}',
        "SM_HP_D": '{"a":"z","b":1}',
        "SM_HP_LR": "0.1",
        "SM_HP_N": "",
        "SM_HP_ÜNÏ": "é",
        "SM_INPUT_DATA_CONFIG": '{"train":{"TrainingInputMode":"File"}}',
        "SM_IS_HETERO": "false",
        "SM_LOG_LEVEL": "20",
        "SM_MODEL_DIR": "/opt/ml/model",
        "SM_MODULE_DIR": "/opt/ml/code",
        "SM_MODULE_NAME": "train",
        "SM_NUM_GPUS": "0",
        "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
        "SM_OUTPUT_INTERMEDIATE_DIR": "/opt/ml/output/intermediate",
        "SM_USER_ARGS": '["-d","a=z,b=1","--lr","0.1","-n","","--\\u00fcn\\u00ef","\\u00e9"]',
        "SM_USER_ENTRY_POINT": "train.py",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert env["PYTHONPATH"].split(":")[0] == "/opt/ml/code"
    assert not [name for name in env if name.startswith("SUPERVISOR_")], "the token above all"
    training = json.loads(env["SM_TRAINING_ENV"])
    assert training["is_master"] is True
    assert training["channel_input_dirs"] == {"train": "/opt/ml/input/data/train"}


def test_settings_precedence_is_flag_environment_hyperparameter_default() -> None:
    hyper = {"sagemaker_container_log_level": 40}
    environ = {"SUPERVISOR_LOG_LEVEL": "warning", "SAGEMAKER_CONTAINER_LOG_LEVEL": "10"}
    assert parse_settings({"log_level": "debug"}, environ, hyper)[0].log_level == "debug"
    assert parse_settings({}, environ, hyper)[0].log_level == "warning"
    del environ["SUPERVISOR_LOG_LEVEL"]
    assert parse_settings({}, environ, hyper)[0].log_level == "error"
    assert parse_settings({}, environ, {})[0].log_level == "debug"
    assert parse_settings({}, {}, {})[0].log_level == "info"


def test_the_shares_of_a_stop_follow_the_limit() -> None:
    settings, faults = parse_settings({}, {"SUPERVISOR_STOP_LIMIT_S": "30"}, {})
    assert not faults
    assert (settings.publish_reserve_s, settings.stop_grace_s) == (3.75, 13.25)
    # Open MPI gives 2 s, Slurm's KillWait may be 8: what a stop takes is shorter in proportion.
    for limit_s in ("2", "8", "10"):
        settings, faults = parse_settings({}, {"SUPERVISOR_STOP_LIMIT_S": limit_s}, {})
        assert not faults
        assert settings.stop_grace_s > 0.4 * float(limit_s)
    servers = {"SUPERVISOR_SERVER_GRACE_S": "9", "SUPERVISOR_STOP_LIMIT_S": "10"}
    _, faults = parse_settings({}, servers, {})
    assert "SUPERVISOR_STOP_LIMIT_S: found 10;" in str(faults[0])
    assert "SUPERVISOR_SERVER_GRACE_S 9" in str(faults[0])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SUCCESS_POLICY", "0", "a share of the scripts"),
        ("SUCCESS_POLICY", "1.5", "a share of the scripts"),
        ("SUCCESS_POLICY", "nan", "a share of the scripts"),
        ("FAILURE_POLICY", "tolerate", "tolerate:N"),
        ("FAILURE_POLICY", "tolerate:-1", "tolerate:N"),
        ("FAILURE_POLICY", "fail-fast:1", "tolerate:N"),
        ("MASTER_LEASE_S", "0", "1 or more"),
        ("MASTER_REFUSED_COUNT", "0", "from 1 to 1000"),
        ("POLL_WAIT_S", "20", "half of SUPERVISOR_MASTER_LEASE_S, 15"),
    ],
)
def test_windows_and_policies_that_make_no_sense(name: str, text: str, expected: str) -> None:
    assert expected in refusal(environ={"PATH": "/bin", f"SUPERVISOR_{name}": text})


RULES = '{"restart": [3, 137, "CUDA error", 3], "stop": [65, "loss is (NaN|inf)"]}'


def test_restart_rules_are_codes_and_patterns() -> None:
    settings, faults = parse_settings({}, {"SUPERVISOR_RESTART_RULES": RULES}, {})
    assert faults == []
    assert settings.restart_rules == Rules(
        frozenset({3, 137}), ("CUDA error",), frozenset({65}), ("loss is (NaN|inf)",)
    )
    for text, rules in (("", None), (" ", None), ("{}", Rules()), ('{"stop": []}', Rules())):
        assert parse_settings({"restart_rules": text}, {}, {})[0].restart_rules == rules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3, 4", 'JSON such as {"restart": [3, "CUDA error"]'),
        ("[3]", 'JSON such as {"restart": [3, "CUDA error"]'),
        ("[" * 5000, 'JSON such as {"restart": [3, "CUDA error"]'),
        ('{"stop": [1], "stop": [2]}', "a name stands there twice"),
        ('{"restarts": [3]}', '"restart" and "stop" alone, not "restarts"'),
        ('{"restart": 3}', 'a list of at most 32 exit codes and patterns as "restart"'),
        ('{"restart": {"x": 3}}', 'a list of at most 32 exit codes and patterns as "restart"'),
        (json.dumps({"stop": [*range(1, 34)]}), "a list of at most 32 exit codes"),
        ('{"restart": [0]}', 'exit codes from 1 to 255 in "restart", not 0'),
        ('{"stop": [256]}', 'exit codes from 1 to 255 in "stop", not 256'),
        ('{"stop": [' + "9" * 4000 + "]}", 'exit codes from 1 to 255 in "stop", not 99999'),
        ('{"stop": [true]}', 'numbers and texts in "stop" alone'),
        ('{"stop": [1.5]}', 'numbers and texts in "stop" alone'),
        ('{"stop": [null]}', 'numbers and texts in "stop" alone'),
        ('{"stop": [""]}', 'patterns of 1 to 200 characters in "stop", not of 0'),
        (json.dumps({"stop": ["x" * 201]}), 'patterns of 1 to 200 characters in "stop", not of'),
        ('{"stop": ["("]}', "regular expressions in \"stop\", and '(' is none: missing ), "),
        ('{"stop": ["a{9999999999999}"]}', 'regular expressions in "stop", and'),
        ('{"restart": [3, 4], "stop": [4]}', 'in "restart" and "stop" stands 4'),
        ('{"restart": ["x"], "stop": ["x"]}', 'in "restart" and "stop" stands "x"'),
    ],
)
def test_restart_rules_that_are_none(text: str, expected: str) -> None:
    said = refusal(environ={"PATH": "/bin", "SUPERVISOR_RESTART_RULES": text})
    assert said.startswith("environment: SUPERVISOR_RESTART_RULES: found ")
    assert expected in said


def test_how_long_nothing_may_move() -> None:
    for text, value in (("auto", None), ("0", 0.0), ("30", 30.0)):
        assert parse_settings({"hang_timeout_s": text}, {}, {})[0].hang_timeout_s == value
    said = refusal(environ={"PATH": "/bin", "SUPERVISOR_HANG_TIMEOUT_S": "soon"})
    assert "a number of seconds, 0 or more, or auto" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(", "a regular expression: missing ), "),
        ("step", "a group (?P<step>…) or (?P<epoch>…)"),
        ("(?P<loss>.)", "a group (?P<step>…) or (?P<epoch>…)"),
        (r"(?P<step>\d)(?P<rate>\d)", "of other named groups total and loss alone"),
        (r"(?P<step>\d)" + "x" * 500, "at most 500 characters"),
    ],
)
def test_patterns_that_find_no_progress(text: str, expected: str) -> None:
    said = refusal(environ={"PATH": "/bin", "SUPERVISOR_PROGRESS_PATTERN": text})
    assert said.startswith("environment: SUPERVISOR_PROGRESS_PATTERN: found ")
    assert expected in said


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("restarts", "0", 0),
        ("restarts", "1000000", 1000000),
        ("restarts", "-1", None),
        ("restarts", "often", None),
        ("restartable_exit_code", "", None),
        ("restartable_exit_code", "1", 1),
        ("restartable_exit_code", "255", 255),
        ("restartable_exit_code", "0", None),
        ("restartable_exit_code", "256", None),
        ("restartable_exit_code", "auto", None),
        ("restartable_exit_code", "9" * 5000, None),
    ],
)
def test_how_often_and_with_which_code(name: str, text: str, value: int | None) -> None:
    settings, faults = parse_settings({name: text}, {}, {})
    assert bool(faults) == (value is None and text != "")
    assert getattr(settings, name) == (value if not faults else ({"restarts": 0}.get(name)))


def test_the_long_poll_is_a_quarter_of_the_lease_and_at_most_half_a_minute() -> None:
    for lease, wait_s in (("30", 7.5), ("200", 30)):
        settings, faults = parse_settings({"master_lease_s": lease}, {}, {})
        assert (settings.poll_wait_s, faults) == (wait_s, [])


def test_every_setting_has_a_default_that_parses_and_words() -> None:
    settings, faults = parse_settings({}, {}, {})
    assert not faults
    for setting in TABLE:
        assert setting.help
        assert hasattr(settings, setting.field)


# --------------------------------------------------------------------------- distributions

THREE = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2", "algo-3"]}


@pytest.mark.parametrize("key", UNSUPPORTED)
@pytest.mark.parametrize("beside", ["", "sagemaker_mpi_enabled"])
def test_a_distribution_that_is_not_run_is_refused(key: str, beside: str) -> None:
    """It was dropped in silence: each host trained alone, and the job succeeded."""
    hyper = {**HYPER, key: "true", **({beside: "true"} if beside else {})}
    text = refusal(hyper, THREE)
    assert text.startswith(f"/opt/ml/input/config/hyperparameters.json: {key}: found true; ")
    assert all(each in text for each in SWITCHES)
    assert "SUPERVISOR_UNSUPPORTED_DISTRIBUTION=ignore lets it pass" in text
    passed = read(hyper, THREE, environ={"SUPERVISOR_UNSUPPORTED_DISTRIBUTION": "ignore"})
    assert passed.strategy is (Strategy.MPI if beside else Strategy.NONE)
    [note] = passed.notes
    assert note.startswith(f"{key} is ignored: {UNSUPPORTED[key]} is not run")
    assert read({**HYPER, key: "false"}, THREE).notes == ()


@pytest.mark.parametrize(
    ("more", "gpus", "refused"),
    [
        ({}, 0, False),
        ({}, 1, False),
        ({}, 8, True),
        ({"sagemaker_mpi_num_of_processes_per_host": "2"}, 0, True),
    ],
)
def test_on_one_host_it_matters_where_it_would_start_several_processes(
    more: dict[str, Any], gpus: int, *, refused: bool
) -> None:
    """The predecessor starts one for each accelerator, one without any."""
    seen = facts({**HYPER, "sagemaker_torch_distributed_enabled": "true", **more})
    seen = seen._replace(num_gpus=gpus)
    if refused:
        with pytest.raises(ContractError, match="torchrun is not run by this program"):
            read_contract(seen)
    else:
        assert "torchrun is not run" in read_contract(seen).notes[0]


def test_a_switch_that_nobody_knows_is_said_where_there_are_several_hosts() -> None:
    hyper = {
        **HYPER,
        "sagemaker_ray_enabled": "true",
        "sagemaker_off_enabled": "false",
        "mp_parameters": '{"partitions": 2}',
    }
    notes = read(hyper, THREE).notes
    assert [note.split()[0] for note in notes] == ["sagemaker_ray_enabled", "mp_parameters:"]
    assert read(hyper).notes == ()


def test_a_switch_that_is_null_is_off_and_one_that_is_no_truth_value_is_refused() -> None:
    """JSON's null was "expected true or false"; in the predecessor it is off."""
    keys = (*SWITCHES, *UNSUPPORTED)
    assert read({**HYPER, **dict.fromkeys(keys, "null")}, THREE).strategy is Strategy.NONE
    text = refusal({**HYPER, **dict.fromkeys(keys, "yes")}, THREE)
    assert text.count("found 'yes'; expected true or false") == len(keys)
