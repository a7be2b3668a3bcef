from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "rich",
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
    code = (
        "from freehold import startup\n"
        "startup.import_lightly()\n"
        "import sys, freehold.process, freehold.compose, freehold.gateway.worker\n"
        "from freehold.gateway import fast\n"
        "fast.load()\n"
        f"print(sorted(name for name in {HEAVY!r} if sys.modules.get(name)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
