"""The committed generated code is what the .proto files say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run(
        ["sh", "proto/generate.sh", str(tmp_path)], cwd=ROOT, check=True, env=os.environ | {"PYTHON": sys.executable}
    )
    fresh = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*"))
    committed = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*_pb2.py*"))
    committed = [path for path in committed if "__pycache__" not in path.parts]
    assert fresh == committed
    for path in fresh:
        assert (tmp_path / path).read_text() == (ROOT / "proto" / path).read_text(), f"run proto/generate.sh: {path}"
