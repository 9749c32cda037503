"""The values of settings: what a text means, or what is allowed instead. Pure.

Each parser raises ValueError whose text says what is allowed.
"""

from __future__ import annotations

import signal
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from supervisor.life.words import Role

if TYPE_CHECKING:  # for jobs that go on after a failure
    from supervisor.life.attempts import Rules


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:  # also refuses nan and inf
        raise ValueError("a number of seconds, 0 or more")
    return value


def share(text: str) -> Any:
    """Seconds; None for ``auto``, which is resolved once all settings are read."""
    if text.lower() == "auto":
        return None
    try:
        return seconds(text)
    except ValueError:
        raise ValueError("a number of seconds, 0 or more, or auto") from None


_PATTERN_LENGTH: Final = 500
_PATTERN_GROUPS: Final = frozenset({"step", "epoch", "total", "loss"})


def progress_pattern(text: str) -> str:
    if not text:
        return text
    import re  # noqa: PLC0415

    try:
        groups = set(re.compile(text).groupindex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression: {error}") from None
    if len(text) > _PATTERN_LENGTH:
        raise ValueError(f"at most {_PATTERN_LENGTH} characters")
    if not groups & {"step", "epoch"} or groups - _PATTERN_GROUPS:
        raise ValueError(
            "a regular expression with a group (?P<step>…) or (?P<epoch>…), and of other named "
            "groups total and loss alone"
        )
    return text


def lease(text: str) -> float:
    value = seconds(text)
    if value < 1:
        raise ValueError("a number of seconds, 1 or more")
    return value


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise ValueError("an integer from 1 to 1000")
    return int(text)


def success_policy(text: str) -> str:
    word = text.lower()
    if word in {"auto", "chief", "all"}:
        return word
    try:
        part = float(text)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise ValueError("auto, chief, all, or a share of the scripts, above 0 and at most 1")
    return text


def failure_policy(text: str) -> str:
    word, _, number = text.lower().partition(":")
    if text.lower() == "fail-fast" or (
        word == "tolerate" and number.isascii() and number.isdigit() and len(number) < 6
    ):
        return text.lower()
    raise ValueError("fail-fast, or tolerate:N with N workers")


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError("a port, an integer from 1 to 65535")
    return int(text)


def exit_code(text: str) -> Any:
    """An exit code; None for ``auto``."""
    if text.lower() == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise ValueError("auto, or an exit code from 0 to 255")
    return int(text)


def failure_code(text: str) -> Any:
    """An exit code that says that something failed; None where there is none."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 255):
        raise ValueError("an exit code from 1 to 255, or nothing")
    return int(text)


_MOST_RULES: Final = 32
_RULE_LENGTH: Final = 200


def restart_rules(text: str) -> Rules | None:
    """What the user says of ends; None where that is nothing."""
    if not text.strip():
        return None
    import json  # noqa: PLC0415  # where there are rules: start-up is a feature

    from supervisor.life.attempts import Rules  # noqa: PLC0415

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    form = 'JSON such as {"restart": [3, "CUDA error"], "stop": [65, "loss is NaN"]}'
    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{form}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(form)  # noqa: TRY004  # as of any other text
    if unknown := found.keys() - {"restart", "stop"}:
        raise ValueError(f'"restart" and "stop" alone, not {json.dumps(min(unknown))[:80]}')
    restart_codes, restart_patterns = _rules_of("restart", found.get("restart", []))
    stop_codes, stop_patterns = _rules_of("stop", found.get("stop", []))
    both = {*restart_codes, *restart_patterns} & {*stop_codes, *stop_patterns}
    if both:
        shown = ", ".join(sorted(json.dumps(rule) for rule in both))
        raise ValueError(f'each rule once, and in "restart" and "stop" stands {shown[:80]}')
    return Rules(restart_codes, restart_patterns, stop_codes, stop_patterns)


def _rules_of(name: str, given: object) -> tuple[frozenset[int], tuple[str, ...]]:
    """The exit codes and the regular expressions of one list."""
    import re  # noqa: PLC0415

    if not isinstance(given, list) or len(given) > _MOST_RULES:
        raise ValueError(f'a list of at most {_MOST_RULES} exit codes and patterns as "{name}"')
    codes, patterns = set(), []
    for rule in given:
        if not isinstance(rule, int | str) or isinstance(rule, bool):
            raise ValueError(f'numbers and texts in "{name}" alone')  # noqa: TRY004  # see above
        if isinstance(rule, int):
            if not 1 <= rule <= 255:
                raise ValueError(f'exit codes from 1 to 255 in "{name}", not {str(rule)[:20]}')
            codes.add(rule)
        else:
            if not 1 <= len(rule) <= _RULE_LENGTH:
                raise ValueError(
                    f'patterns of 1 to {_RULE_LENGTH} characters in "{name}", not of {len(rule)}'
                )
            try:
                re.compile(rule)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f'regular expressions in "{name}", and {rule!r} is none: {error}'
                ) from None
            patterns.append(rule)
    return frozenset(codes), tuple(patterns)


def index(text: str) -> Any:
    """A number from 0; None where there is none."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError("a number from 0")
    return int(text)


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return text.lower()

    return parse


def ps_hosts(text: str) -> str:
    layout = text.lower()
    if layout in {"all", "members"} or (text.isascii() and text.isdigit() and int(text) > 0):
        return layout
    if layout.startswith("group:") and text[6:]:
        return f"group:{text[6:]}"
    raise ValueError("all, members, a number of hosts from 1, or group:NAME")


TRUE: Final = frozenset({"1", "true", "yes", "on"})


def switch(text: str) -> bool:
    word = text.lower()
    if word in TRUE:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("true or false")


def level(text: str) -> str:
    by_number = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "error"}
    word = by_number.get(text, text.lower())
    if word not in {"debug", "info", "warning", "error"}:
        raise ValueError("one of debug, info, warning, error, or 10, 20, 30, 40")
    return word


def stop_signal(text: str) -> int:
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    known = getattr(signal.Signals, name, None)
    if known is None or known in {signal.SIGKILL, signal.SIGSTOP}:
        raise ValueError("the name of a signal that can be caught, such as SIGTERM or SIGUSR1")
    return int(known)


def whole_number(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) < 1 << 62):
            raise ValueError(f"a whole number, {least} or more")
        return int(text)

    return parse


_SIZE_UNITS: Final = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def size(least: int, most: int = 1 << 62) -> Callable[[str], int]:
    """Bytes: a whole number, with KiB, MiB, GiB or TiB behind it or not."""

    def parse(text: str) -> int:
        digits = text.rstrip("KMGTkmgtIiBb ")
        factor = _SIZE_UNITS.get(text[len(digits) :].strip().upper())
        known = digits.isascii() and digits.isdigit() and len(digits) < 20 and factor is not None
        if not known or not least <= int(digits) * (factor or 1) <= most:
            limit = f" and at most {most}" if most < 1 << 62 else ""
            raise ValueError(f"bytes, such as 67108864 or 64MiB, {least} or more{limit}")
        return int(digits) * (factor or 1)

    return parse


def place(text: str) -> str:
    """A place where files are kept, or nothing."""
    if not text:
        return ""
    from supervisor.storage.location import Location  # noqa: PLC0415  # only where there is one

    return str(Location.parse(text))


TRANSFERS: Final = {
    "checkpoints": "end",
    "model_dir": "end",
    "intermediate": "warn",
    "output": "end",
    "model": "end",
    "logs": "warn",
}
"""What can be kept elsewhere, by name, in the order of publishing; and the default policy."""
_POLICIES: Final = ("warn", "end", "fail")


def storage_policy(text: str) -> tuple[tuple[str, str], ...]:
    rules = [rule.strip().partition("=") for rule in text.lower().split(",") if rule.strip()]
    if any(name not in {*TRANSFERS, "all"} or policy not in _POLICIES for name, _, policy in rules):
        names = ", ".join(TRANSFERS)
        raise ValueError(
            f"NAME=POLICY with commas between them, of {names} or all, and warn, end or fail"
        )
    found: dict[str, str] = {}
    for name, _, policy in rules:
        found |= dict.fromkeys(TRANSFERS if name == "all" else (name,), policy)
    return tuple(found.items())


def roles(text: str) -> frozenset[Role]:
    """Which roles: ``all``, ``none``, or their names with commas between them."""
    word = text.strip().lower()
    if word in {"all", "none"}:
        return frozenset(Role if word == "all" else ())
    try:
        return frozenset(Role(name.strip()) for name in word.split(","))
    except ValueError:
        raise ValueError(f"all, none, or some of {', '.join(Role)}, with commas") from None


def directory(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path")
    return text


def token(text: str) -> str:
    """It travels in a header of HTTP, which takes no line break and loses blanks at its ends."""
    if not text.isprintable() or text != text.strip() or len(text) > 1024:
        raise ValueError(
            "one line of at most 1024 printable characters with no blank or line break at its ends"
        )
    return text


def endpoint(text: str) -> str:
    if text and not text.lower().startswith(("http://", "https://")):
        raise ValueError("http://HOST:PORT or https://HOST")
    return text


def encryption(text: str) -> str:
    known = {name.lower(): name for name in ("", "AES256", "aws:kms", "aws:kms:dsse")}
    if text.lower() not in known:
        raise ValueError("AES256, aws:kms or aws:kms:dsse")
    return known[text.lower()]


_TEMPLATE_FIELDS: Final = ("host", "role", "stream", "time", "mark")


def template(text: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        text.format(**dict.fromkeys(_TEMPLATE_FIELDS, ""))
        fits = fields <= set(_TEMPLATE_FIELDS) and not set("\r\n") & set(text)
    except (LookupError, ValueError, AttributeError):
        fits = False
    if not fits:
        allowed = "{host}, {role}, {stream}, {time} and {mark}"
        raise ValueError(f"a template of {allowed}, on one line")
    return text


def command(text: str) -> tuple[str, ...]:
    """A command line's words, by a shell's rules of quoting; no shell reads it."""
    import shlex  # noqa: PLC0415  # only where there is one: start-up is a feature

    try:
        words = tuple(shlex.split(text)) if text else ()
        for word in words:
            word.format(python="p", program="p", args="a")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError(
            "words with closed quotes, and of braces {python}, {program}, {args} only"
        ) from None
    if any("{args}" in word and word != "{args}" for word in words):
        raise ValueError("{args} as a word of its own: it becomes one word for each argument")
    return words
