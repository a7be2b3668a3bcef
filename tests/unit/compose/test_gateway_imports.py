from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "botocore",
    "boto3",
    "sqlalchemy",
    "alembic",
    "starlette",
    "pydantic",
    "uvicorn",
    "cryptography",
    "opentelemetry",
    "prometheus_client",
)


def test_a_gateway_worker_imports_no_botocore_and_no_sql():
    code = f"import sys, freehold.compose, freehold.gateway.worker\nprint(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
