"""Build the Python modules of the wire contract: ``python protos/generate.py [OUTPUT_DIR]``."""

import shutil
import sys
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(output: Path) -> None:
    """Write ``lifeline/v1/*_pb2*`` under `output`; raises SystemExit if protoc fails."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    plugins = []
    for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        plugin = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        if plugin is None:
            raise SystemExit(f"{name} is not installed: run `make setup`")
        plugins.append(f"--plugin={name}={plugin}")
    outputs = [f"--{kind}_out={output}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{output}" for kind in ("mypy", "mypy_grpc")]
    code = protoc.main(["protoc", f"-I{PROTOS}", *plugins, *outputs, *sources])
    if code:
        raise SystemExit(code)
    package = output / "lifeline" / "v1"
    # Without a service, the generated service module is empty.
    for name in ("action", "group", "item"):
        for path in package.glob(f"{name}_pb2_grpc.py*"):
            path.unlink()


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS.parent)
