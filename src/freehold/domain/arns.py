"""ARNs and ids of AgentCore resources: building and reading them.

Source of the forms: botocore's model (patterns) and spec section 3.2. Invariant: `parse_runtime` accepts what
`AgentRuntimeArn.__str__` writes, and nothing that names another service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from freehold.domain.runtimes import DEFAULT_ENDPOINT

RUNTIME_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,99}-[a-zA-Z0-9]{10}")
_ACCOUNT = re.compile(r"[0-9]{12}")
_REGION = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class AgentRuntimeArn:
    """`arn:aws:bedrock-agentcore:{region}:{account}:runtime/{runtime_id}`"""

    region: str
    account: str
    runtime_id: str

    def __str__(self) -> str:
        return runtimes(self.region, self.account) + self.runtime_id

    def endpoint(self, name: str) -> str:
        """The ARN of one of the runtime's endpoints."""
        return f"{self}/runtime-endpoint/{name}"

    def url(self, public_url: str, endpoint: str) -> str:
        """Where InvokeAgentRuntime is called for `endpoint`, on a server whose callers reach it at `public_url`.

        The base address of an A2A agent. Names the endpoint only if it isn't the default one, as the service does.
        """
        base = f"{public_url}/runtimes/{quote(str(self), safe='')}/invocations/"
        return base if endpoint == DEFAULT_ENDPOINT else f"{base}?qualifier={quote(endpoint, safe='')}"


def runtimes(region: str, account: str) -> str:
    """What the ARNs of an account's agent runtimes begin with: their ids follow."""
    return f"arn:aws:bedrock-agentcore:{region}:{account}:runtime/"


def parse_runtime(text: str) -> AgentRuntimeArn | None:
    """Read a runtime ARN; None when it is not one."""
    parts = text.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn" or not parts[1].startswith("aws") or parts[2] != "bedrock-agentcore":
        return None
    region, account, resource = parts[3], parts[4], parts[5]
    kind, _, runtime_id = resource.partition("/")
    if kind != "runtime" or not is_runtime_id(runtime_id):
        return None
    if not _REGION.fullmatch(region) or not _ACCOUNT.fullmatch(account):
        return None
    return AgentRuntimeArn(region, account, runtime_id)


def is_runtime_id(text: str) -> bool:
    """Whether `text` has the form of an agent runtime id (`<name>-<10 alphanumerics>`)."""
    return len(text) <= 111 and RUNTIME_ID.fullmatch(text) is not None


def workload_identity(region: str, account: str, name: str) -> str:
    """The ARN of a workload identity in the default directory."""
    return f"arn:aws:bedrock-agentcore:{region}:{account}:workload-identity-directory/default/workload-identity/{name}"
