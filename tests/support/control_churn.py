"""Many clients that create, update, list and delete at once, while control is killed: nothing may be lost or doubled.

For `./dev soak control` and the suite's short form. Each client alone owns the runtimes it makes, so it knows what must
be there: as many versions as updates were accepted, each with the number it was given. Invariant: a call whose outcome
is unknown (the server went away) is repeated with its client token until it is known.
"""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

STATIC = 23
"""Runtimes that exist throughout: a listing that misses or repeats one is wrong."""
PAGE = 7
GIVE_UP_S = 60.0
PAUSE_S = 0.02
_AGAIN = frozenset({"ServiceUnavailableException", "ThrottlingException"})


class ChurnFailed(Exception):
    """Something was lost, doubled, skipped or answered by 500. The message says what."""


@dataclass
class Churn:
    """`client` makes a boto3 client of the control plane that does not retry; `code` is what runtimes are made of."""

    client: Callable[[], Any]
    code: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter[str])
    _end: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, clients: int, duration_s: float, interrupt: Callable[[], Any]) -> Counter[str]:
        """How often each operation succeeded; `interrupt` is called in the middle. Raises ChurnFailed."""
        client = self.client()
        static = {self._create(client, f"static_{number}")["agentRuntimeId"] for number in range(STATIC)}
        for runtime_id in static:
            self._rested(client, runtime_id)
        self._end = time.monotonic() + duration_s
        with concurrent.futures.ThreadPoolExecutor(clients + 1) as pool:
            work = [pool.submit(self._one_client, number) for number in range(clients - 1)]
            work.append(pool.submit(self._lister, static))
            work.append(pool.submit(self._interrupt, duration_s / 2, interrupt))
            for done in concurrent.futures.as_completed(work):
                done.result()
        for runtime_id in static:
            self._delete(client, runtime_id)
        left = [line["agentRuntimeName"] for line in self._listing(client)]
        if left:
            raise ChurnFailed(f"what was deleted is listed: {left}")
        return self.counts

    def _interrupt(self, after_s: float, interrupt: Callable[[], Any]) -> None:
        time.sleep(after_s)
        interrupt()

    # -- one client -----------------------------------------------------------------------------------------------

    def _one_client(self, number: int) -> None:
        client, turn = self.client(), 0
        chance = random.Random(number)
        while time.monotonic() < self._end:
            turn += 1
            self._one_life(client, f"churn_{number}_{turn}", chance)

    def _one_life(self, client: Any, name: str, chance: random.Random) -> None:
        runtime_id = self._create(client, name)["agentRuntimeId"]
        accepted = 1
        for _ in range(chance.randint(1, 4)):
            self._rested(client, runtime_id)
            accepted += 1
            told = self._call(
                client.update_agent_runtime,
                agentRuntimeId=runtime_id,
                environmentVariables={"NUMBER": str(accepted)},
                clientToken=str(uuid.uuid4()),
                **self.code,
            )
            if told["agentRuntimeVersion"] != str(accepted):
                raise ChurnFailed(f"update {accepted} of {name} became version {told['agentRuntimeVersion']}")
        found = self._rested(client, runtime_id)
        if (found["agentRuntimeVersion"], found["environmentVariables"]) != (str(accepted), {"NUMBER": str(accepted)}):
            raise ChurnFailed(f"{name} is at version {found['agentRuntimeVersion']}, not at {accepted}")
        listed = self._call(client.list_agent_runtime_versions, agentRuntimeId=runtime_id)["agentRuntimes"]
        if [line["agentRuntimeVersion"] for line in listed] != [str(each) for each in range(1, accepted + 1)]:
            raise ChurnFailed(f"{name} has {len(listed)} versions, not {accepted}")
        named = [line for line in self._listing(client) if line["agentRuntimeName"] == name]
        if len(named) != 1:
            raise ChurnFailed(f"{name} is listed {len(named)} times")
        self._delete(client, runtime_id)

    def _lister(self, static: set[str]) -> None:
        client = self.client()
        while time.monotonic() < self._end:
            seen = Counter(line["agentRuntimeId"] for line in self._listing(client))
            if missing := static - set(seen):
                raise ChurnFailed(f"a listing skipped {sorted(missing)}")
            if repeated := [each for each, times in seen.items() if times > 1]:
                raise ChurnFailed(f"a listing repeated {repeated}")
            self._count("whole listings")

    # -- calls ----------------------------------------------------------------------------------------------------

    def _create(self, client: Any, name: str) -> dict[str, Any]:
        return self._call(
            client.create_agent_runtime, agentRuntimeName=name, clientToken=str(uuid.uuid4()), **self.code
        )

    def _rested(self, client: Any, runtime_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            found = self._call(client.get_agent_runtime, agentRuntimeId=runtime_id)
            if found["status"] == "READY":
                return found
            if found["status"].endswith("FAILED"):
                raise ChurnFailed(f"{runtime_id}: {found.get('failureReason')}")
            time.sleep(PAUSE_S)
        raise ChurnFailed(f"{runtime_id} does not come to rest")

    def _delete(self, client: Any, runtime_id: str) -> None:
        self._call(client.delete_agent_runtime, agentRuntimeId=runtime_id, clientToken=str(uuid.uuid4()))
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            try:
                self._call(client.get_agent_runtime, agentRuntimeId=runtime_id)
            except client.exceptions.ResourceNotFoundException:
                return
            time.sleep(PAUSE_S)
        raise ChurnFailed(f"{runtime_id} is not gone")

    def _listing(self, client: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call(client.list_agent_runtimes, maxResults=PAGE, **token)
            yield from page["agentRuntimes"]
            if "nextToken" not in page:
                return
            token = {"nextToken": page["nextToken"]}

    def _call(self, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        """The answer, asked for until there is one. Raises ClientError, ChurnFailed."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                answer = method(**arguments)
            except (EndpointConnectionError, HTTPClientError) as error:
                problem = type(error).__name__
            except ClientError as error:
                problem = error.response["Error"]["Code"]
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 500:
                    raise ChurnFailed(f"{error.operation_name} was answered by 500 {problem}") from error
                if problem not in _AGAIN:
                    raise
            else:
                self._count(method.__name__)
                return answer
            self._count(f"again after {problem}")
            if time.monotonic() > deadline:
                raise ChurnFailed(f"{method.__name__} is not answered: {problem}")
            time.sleep(PAUSE_S)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
