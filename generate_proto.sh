#!/bin/sh
# Regenerates generated/v1 from proto/v1. Needs the packages of requirements.txt; PYTHON names another interpreter.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
exec "$python" -m grpc_tools.protoc -Igenerated/v1=proto/v1 --python_out=. --pyi_out=. --grpc_python_out=. generated/v1/transcription.proto
