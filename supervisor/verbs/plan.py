"""``supervisor plan``: what would run, for people and as JSON; secrets masked, nothing started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from supervisor.contract.settings import TABLE
from supervisor.faults import safe
from supervisor.host.entry import masker_of
from supervisor.life.words import SuccessPolicy
from supervisor.plan.plan import FETCH, Plan
from supervisor.storage import job
from supervisor.verbs.words import stamp


def as_json(plan: Plan) -> str:
    return json.dumps(_document(plan), indent=2, ensure_ascii=False)


def as_text(plan: Plan) -> str:
    return "\n".join(map(safe, _lines(_document(plan))))


def defaults_in_force(plan: Plan) -> dict[str, tuple[str, str]]:
    """Settings that are as the engine brings them and not the user's own: field → text, source."""
    parsers = {setting.field: setting.parse for setting in TABLE}
    settings = plan.contract.settings
    return {
        field: (text, source)
        for field, (text, source) in plan.contract.engine.defaults.items()
        if parsers[field](text) == getattr(settings, field)
    }


def _document(plan: Plan) -> dict[str, Any]:
    """``env`` of a process is what it has beyond or other than our own environment."""
    masker = masker_of(plan)
    inherited = plan.contract.environ
    processes = []
    for spec in (*plan.steps, *plan.processes):
        added = {
            key: value
            for key, value in spec.env.items()
            if inherited.get(key) != value and key != job.VARIABLE
        }
        processes.append(
            {
                "name": spec.name,
                "role": spec.role.value,
                "essential": spec.essential,
                "argv": masker.argv(spec.argv),
                "cwd": spec.cwd,
                "env": dict(sorted(masker.mapping(added).items())),
                "removed_env": sorted(set(inherited) - set(spec.env)),
            }
        )
    settings = plan.contract.settings
    document = {
        "version": 1,
        "engine": {
            "name": plan.contract.engine.name,
            "evidence": plan.contract.engine.evidence,
            "restarts": settings.restart_count,
            "deadline": plan.contract.engine.deadline or None,
            "stopped_exit_code": plan.stopped_code,
            "defaults": {
                field: {"value": text, "source": source}
                for field, (text, source) in defaults_in_force(plan).items()
            },
        },
        "job": plan.contract.job_name,
        "host": plan.host,
        "master": plan.master,
        "hosts": list(plan.hosts),
        "strategy": plan.strategy.value,
        "success_policy": settings.success_policy
        if plan.success_policy is SuccessPolicy.SHARE
        else plan.success_policy.value,
        "failure_policy": settings.failure_policy,
        "evaluator": plan.evaluator,
        "tf_config": plan.tf_config,
        "endpoints": {
            host: {name: str(getattr(each, name)) for name in ("train", "ps", "status")}
            for host, each in plan.endpoints.items()
        },
        "steps": processes[: len(plan.steps)],
        "processes": processes[len(plan.steps) :],
        "fetched": _fetched(plan),
        "kept": _kept(plan),
        "budgets": plan.budgets._asdict(),
        "paths": plan.paths._asdict(),
        "proxies": list(plan.proxies),
        "notes": list(plan.notes),
    }
    return {key: masker.tree(value) for key, value in document.items()}


def _fetched(plan: Plan) -> list[dict[str, str]]:
    """What is fetched before the script starts: what, from where, to where."""
    spec = next((spec for spec in plan.steps if spec.name == FETCH), None)
    if spec is None:
        return []
    work = job.decode_fetch(spec.env[job.VARIABLE])
    named = [
        ("source", work.source),
        *((tree.name, tree) for tree in work.trees),
        ("checkpoint", work.restore),
    ]
    return [
        {"what": name, "from": str(each.origin), "to": each.target}
        for name, each in named
        if each is not None
    ]


def _kept(plan: Plan) -> list[dict[str, str]]:
    """What is kept elsewhere, in the order of publishing."""
    if plan.storage is None:
        return []
    work = job.decode_sync(plan.storage.env[job.VARIABLE])
    return [
        {
            "what": each.name,
            "from": each.source,
            "to": str(each.target),
            "when": "at the end" if each.kind is job.Kind.RESULT else "while it runs",
            "policy": each.policy.value,
        }
        for each in work.transfers
    ]


def _lines(document: dict[str, Any]) -> Iterator[str]:
    role = "master" if document["host"] == document["master"] else "member"
    yield f"host        {document['host']} ({role} of {len(document['hosts'])})"
    yield f"job         {document['job'] or '(no name)'}"
    engine = document["engine"]
    yield f"engine      {engine['name']} ({engine['evidence']})"
    for field, each in engine["defaults"].items():
        yield f"            {field} {each['value']}, by {each['source']}"
    if engine["restarts"]:
        yield f"restarts    {engine['restarts']} by the platform"
    if engine["deadline"]:
        yield f"deadline    {stamp(engine['deadline'])}"
    policies = f"success {document['success_policy']}, failure {document['failure_policy']}"
    yield f"strategy    {document['strategy']}, policies: {policies}"
    if document["evaluator"]:
        yield f"evaluator   {document['evaluator']}"
    if document["proxies"]:
        yield f"proxy       {', '.join(document['proxies'])}, but not for the job's own hosts"
    for note in document["notes"]:
        yield f"note        {note}"
    yield ""
    yield "endpoints"
    for host, ports in document["endpoints"].items():
        yield f"  {host:<12} " + "  ".join(f"{name} {at}" for name, at in ports.items())
    if document["tf_config"] is not None:
        yield ""
        yield f"TF_CONFIG   {json.dumps(document['tf_config'])}"
    for title, rows in (("fetched", document["fetched"]), ("kept", document["kept"])):
        for row in rows:
            more = f" ({row['when']}, policy {row['policy']})" if "when" in row else ""
            yield f"{title:<11} {row['what']}: {row['from']} → {row['to']}{more}"
    for process in (*document["steps"], *document["processes"]):
        yield ""
        essential = ", essential" if process["essential"] else ""
        kind = "step   " if process in document["steps"] else "process"
        yield f"{kind}     {process['name']} ({process['role']}{essential})"
        yield f"  argv      {json.dumps(process['argv'], ensure_ascii=False)}"
        yield f"  cwd       {process['cwd']}"
        for key, value in process["env"].items():
            if key != "TF_CONFIG":
                yield f"  env       {key}={value}"
        for key in process["removed_env"]:
            yield f"  without   {key}"
    yield ""
    yield "budgets, in seconds"
    for name, seconds in document["budgets"].items():
        yield f"  {name.removesuffix('_s'):<14} {seconds:g}"
    yield ""
    yield "paths"
    for name, path in document["paths"].items():
        yield f"  {name:<20} {path}"
