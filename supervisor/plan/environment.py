"""The user's script as the predecessor calls it: its arguments and its ``SM_*`` environment.

Names, JSON and order are those of ``sagemaker-training`` 5.1.4, compared with its output: strings
as they are, everything else as compact JSON with sorted keys and ASCII escapes; None is empty.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any, Final

from supervisor.contract.contract import Contract
from supervisor.contract.distribution import SWITCHES, UNSUPPORTED
from supervisor.contract.hyperparameters import TUNING_METRIC
from supervisor.contract.paths import channel_below
from supervisor.contract.reading import is_ours
from supervisor.contract.strangers import PREFIX
from supervisor.plan.arguments import script_arguments
from supervisor.plan.proxies import exceptions

STACKS_DIRECTORY: Final = posixpath.join(
    posixpath.dirname(posixpath.dirname(__file__)), "programs", "injected"
)
"""To be found by the script's Python at its start: see ``sitecustomize.py`` there."""

_LOG_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_OF_SYSTEMD: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
"""Where a supervisor runs under systemd they are its own: a script that wrote to that socket would
speak for it. Scripts are told of ours when they start (``host/notices.py``)."""

_DISTRIBUTIONS: Final = (*SWITCHES, *UNSUPPORTED)
"""Any of them makes the current group one of the distribution, where none is named."""

_KNOWN_TO_PLATFORM: Final = frozenset(
    {
        "sagemaker_program",
        "sagemaker_submit_directory",
        "sagemaker_enable_cloudwatch_metrics",
        "sagemaker_container_log_level",
        "sagemaker_region",
        "sagemaker_job_name",
        "sagemaker_s3_output",
        "default_user_module_name",
        TUNING_METRIC,
    }
)
"""What does not count among the framework's parameters (``SM_FRAMEWORK_PARAMS``)."""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def user_arguments(contract: Contract) -> tuple[str, ...]:
    """All arguments of the script: those of hyperparameters, then those given as they are."""
    made = script_arguments(contract.hyperparameters, contract.settings)
    return (*made, *contract.arguments)


def inherited(contract: Contract) -> dict[str, str]:
    """Our own environment as a child gets it: without our settings, the token above all. What
    other programs call ``SUPERVISOR_…`` stays.

    Where a proxy is set, the job's own hosts are excepted from it.
    """
    others = contract.variables_of_others
    env = {
        key: value
        for key, value in contract.environ.items()
        if key not in _OF_SYSTEMD
        and (not key.startswith(PREFIX) or key in others or not is_ours(key))
    }
    addresses = (overlay.address for overlay in contract.overlays.values())
    env.update(exceptions(env, (*contract.hosts, *addresses)))
    return env


def script_environment(contract: Contract) -> dict[str, str]:
    """The script's whole environment but for what the plan adds (``TF_CONFIG``, budgets).

    What the image or the user set stays; our own settings, the token above all, are not passed on.
    """
    env = inherited(contract)
    values = _values(contract)
    for name, value in values.items():
        env[f"SM_{name.upper()}"] = _text(value)
    env["SM_TRAINING_ENV"] = _text(_training_env(contract, values))
    env["SM_USER_ARGS"] = _text(user_arguments(contract))
    for name in contract.input_data_config:
        env[f"SM_CHANNEL_{name.upper()}"] = _channel_dir(contract, name)
    for name, value in contract.hyperparameters.items():
        if "=" not in name:  # the kernel's limit on names
            env[f"SM_HP_{name.upper()}"] = _text(value)
    env["CURRENT_HOST"] = contract.current_host
    env["SAGEMAKER_JOB_NAME"] = contract.job_name
    env["SAGEMAKER_REGION"] = contract.region
    # The old S3 reader's variables; the region is the job's where the bucket did not name its own.
    env.setdefault(
        "S3_REGION", (contract.fetched and contract.fetched.bucket_region) or contract.region
    )
    env.setdefault("S3_USE_HTTPS", "1")
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    search = [contract.code_dir, env.get("PYTHONPATH", "")]
    if contract.settings.stacks:
        search.append(STACKS_DIRECTORY)  # last: a sitecustomize of the user's comes first
    env["PYTHONPATH"] = ":".join(filter(None, search))
    return env


def _channel_dir(contract: Contract, channel: str) -> str:
    return channel_below(contract.base_dir, channel)


def _values(contract: Contract) -> dict[str, Any]:
    """The variables that are also keys of ``SM_TRAINING_ENV``, by their lower-case names."""
    base = contract.base_dir
    resources = contract.resource_config
    groups = {
        str(group.get("instance_group_name")): group
        for group in resources.get("instance_groups") or []
    }
    group = resources.get("current_group_name", "homogeneousCluster")
    chosen = contract.platform_hyperparameters.get("sagemaker_distribution_instance_groups")
    if chosen is None:
        chosen = [group] if any(map(contract.platform_hyperparameters.get, _DISTRIBUTIONS)) else []
    values = {
        "hosts": list(contract.hosts),
        "network_interface_name": resources.get("network_interface_name", "eth0"),
        "hps": dict(contract.hyperparameters),
        "user_entry_point": contract.entry_point,
        "framework_params": {
            key: value
            for key, value in contract.platform_hyperparameters.items()
            if key not in _KNOWN_TO_PLATFORM
        },
        "resource_config": dict(resources),
        "input_data_config": dict(contract.input_data_config),
        "output_data_dir": posixpath.join(base, "output/data"),
        "channels": sorted(contract.input_data_config),
        "current_host": contract.current_host,
        "current_instance_type": resources.get("current_instance_type", "local"),
        "current_instance_group": group,
        "current_instance_group_hosts": list(groups.get(group, {}).get("hosts", [])),
        "instance_groups": list(groups),
        "instance_groups_dict": groups,
        "distribution_instance_groups": chosen,
        "is_hetero": len(groups) > 1,
        "module_name": contract.entry_point.removesuffix(".py"),
        "log_level": _LOG_LEVELS[contract.settings.log_level],
        "framework_module": contract.environ.get("SAGEMAKER_TRAINING_MODULE"),
        "input_dir": posixpath.join(base, "input"),
        "input_config_dir": posixpath.join(base, "input/config"),
        "output_dir": posixpath.join(base, "output"),
        "num_cpus": contract.num_cpus,
        "num_gpus": contract.num_gpus,
        "num_neurons": contract.num_neurons,
        "model_dir": posixpath.join(base, "model"),
        "module_dir": contract.submit_directory or contract.code_dir,
        "output_intermediate_dir": posixpath.join(base, "output/intermediate"),
    }
    if resources.get("topology"):
        values["topology"] = resources["topology"]
    return values


def _training_env(contract: Contract, values: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"hps": "hyperparameters", "framework_params": "additional_framework_parameters"}
    result = {
        renamed.get(name, name): value for name, value in values.items() if name != "channels"
    }
    hosts = _distribution_hosts(contract, values)
    master = next(iter(hosts or contract.hosts))
    result.update(
        channel_input_dirs={
            name: _channel_dir(contract, name) for name in contract.input_data_config
        },
        distribution_hosts=hosts,
        is_master=contract.current_host == master,
        is_modelparallel_enabled=None,
        is_smddpmprun_installed=False,
        is_smddprun_installed=False,
        job_name=contract.job_name or None,
        master_hostname=master,
        topology=contract.resource_config.get("topology", []),
    )
    return result


def _distribution_hosts(contract: Contract, values: Mapping[str, Any]) -> list[str]:
    """Those of the chosen groups in the order of the groups, on hosts outside of them too."""
    groups = contract.resource_config.get("instance_groups")
    if not groups:
        return list(contract.hosts)
    chosen = values["distribution_instance_groups"]
    return [
        host for each in groups if each["instance_group_name"] in chosen for host in each["hosts"]
    ]
