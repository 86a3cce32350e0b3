"""Generate the Python code of the protos beside them, or check that it is current.

python protos/generate.py           write the generated files
python protos/generate.py --check   exit 1, naming the files, if the committed ones are stale
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parent
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def sources() -> list[str]:
    """Return the proto files, relative to this folder."""
    return sorted(str(path.relative_to(HOME)) for path in HOME.rglob("*.proto"))


def generate(out: Path) -> None:
    """Run protoc for every proto; the files land under `out` as they lie under this folder."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HOME}"]
    command += [f"--plugin={name}={_plugin(name)}" for name in PLUGINS]
    command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    done = subprocess.run(  # noqa: S603 - our own arguments
        [*command, *sources()], check=False, cwd=HOME, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def _plugin(name: str) -> str:
    """Find a protoc plugin beside the interpreter first: a venv need not be activated."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is not installed. Install the dev extra: pip install -e '.[dev]'")
    return found


def generated(root: Path) -> dict[str, bytes]:
    """Return every generated file below `root` by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for pattern in PATTERNS
        for path in root.rglob(pattern)
    }


def stale() -> list[str]:
    """Name the generated files that are missing, changed, or left of a proto that is gone."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = generated(Path(folder))
    there = generated(HOME)
    return sorted(
        name for name in fresh.keys() | there.keys() if fresh.get(name) != there.get(name)
    )


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    if parser.parse_args().check:
        names = stale()
        if names:
            print("stale, run python protos/generate.py:", *names, sep="\n  ", file=sys.stderr)
        return 1 if names else 0
    generate(HOME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
