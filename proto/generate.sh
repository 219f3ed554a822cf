#!/bin/sh
# Regenerates proto/farebox/v1/*_pb2.py and .pyi. Run from the repository root: sh proto/generate.sh [OUTPUT_DIR]
# A test runs it into a temporary folder and compares, so that committed code is never stale.
set -eu
out=${1:-proto}
python=${PYTHON:-.venv/bin/python}
exec "$python" -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" proto/farebox/v1/*.proto
