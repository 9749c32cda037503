"""Small real distributions, and an environment of its own to install them into."""

from __future__ import annotations

import base64
import hashlib
import pathlib
import site
import subprocess
import sys
import zipfile


def write_wheel(
    directory: pathlib.Path, name: str, version: str, module: str = "", requires: str = ""
) -> pathlib.Path:
    """A wheel with one module, written by hand."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def layered_python(directory: pathlib.Path) -> str:
    """A Python that sees all that this one sees, and installs into ``directory``."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60
    )
    packages = next(directory.glob("lib/python*/site-packages"))
    (packages / "below.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return str(directory / "bin" / "python")
