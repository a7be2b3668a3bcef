"""Verdicts on tokens and the keys behind them, as one worker remembers them; clocks in hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import jwt_cases
import jwt_runtimes
import pytest
from jwt_cases import Case
from jwt_tokens import NOW, public_jwk

from freehold.auth import jwt
from freehold.auth.jwt_refusals import TokenRefused
from freehold.control import protocol
from freehold.control.protocol import Contract, EndpointRoute, GetKeySet, NoKeySet
from freehold.domain.errors import FreeholdError, Unavailable
from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway import bearers, contracts
from freehold.gateway.bearers import MAX_VERDICT_S, Bearers
from freehold.gateway.key_sets import KeySets
from freehold.gateway.resource_metadata import Resources
from freehold.gateway.targets import Named, Target

ACCOUNT = "111122223333"


class Stand:
    """A worker's part, a control that answers with `told`, and one clock for both hands."""

    def __init__(self) -> None:
        self.now = NOW
        self.told: protocol.KeySet | NoKeySet | Exception = jwt_runtimes.key_set()
        self.asked: list[str | None] = []
        self.checked = 0
        self.key_sets = KeySets(self._ask, clock=lambda: self.now)
        self.bearers = Bearers(
            self.key_sets,
            Resources("https://agents.example", "eu-central-1"),
            now=lambda: self.now,
            clock=lambda: self.now,
        )

    async def _ask(self, question: GetKeySet) -> Any:
        await asyncio.sleep(0)
        self.asked.append(question.lacking)
        if isinstance(self.told, Exception):
            raise self.told
        return self.told

    async def check(self, case: Case | None = None, runtime: str = "one") -> Principal:
        case = case or Case("")
        head: Any = type("Head", (), {"raw_query": b"", "headers": []})()
        exchange: Any = type("Exchange", (), {"head": head, "also": [], "request_id": "r"})()
        sent = [value.encode() for _, value in case.headers()]
        return await self.bearers.check(exchange, target(case.runtime, runtime), sent)

    async def settle(self) -> None:
        """What was begun beside the checks has ended."""
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)


def target(rule: str, runtime: str) -> Target:
    runtime_id = f"{runtime}-0123456789"
    judged_by = jwt_runtimes.authorizer(rule, account=ACCOUNT, runtime_id=runtime_id)
    contract = Contract(1, ServerProtocol.HTTP, 8080, [], authorizer=judged_by)
    route = EndpointRoute(ACCOUNT, runtime_id, "DEFAULT", 1)
    return Target(Named("", ACCOUNT, runtime_id, "DEFAULT"), route, contract, contracts.REGISTRY[ServerProtocol.HTTP])


def in_loop(test: Callable[[Stand], Awaitable[None]]) -> Callable[[pytest.MonkeyPatch], None]:
    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            stand = Stand()
            verify = jwt.verify

            def counted(*arguments: Any, **more: Any) -> Any:
                stand.checked += 1
                return verify(*arguments, **more)

            monkeypatch.setattr(jwt, "verify", counted)
            await test(stand)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_a_verdict_is_remembered_for_a_minute_at_the_most(stand: Stand):
    first = await stand.check()
    stand.now += MAX_VERDICT_S - 1
    assert await stand.check() == first
    assert stand.checked == 1
    stand.now += 1
    assert await stand.check() == first
    assert stand.checked == 2


@in_loop
async def test_a_verdict_does_not_outlive_its_token(stand: Stand):
    case = Case("", claims={"exp": NOW + 5})
    await stand.check(case)
    stand.now += 4
    await stand.check(case)
    assert stand.checked == 1
    stand.now += 1
    await stand.check(case)
    assert stand.checked == 2, "within the skew it is good, and looked at each time"
    stand.now += 10
    with pytest.raises(TokenRefused):
        await stand.check(case)


@in_loop
async def test_a_verdict_is_of_one_runtime_alone(stand: Stand):
    await stand.check()
    await stand.check(runtime="other")
    assert stand.checked == 2


@in_loop
async def test_what_is_refused_is_looked_at_each_time(stand: Stand):
    for _ in range(2):
        with pytest.raises(TokenRefused):
            await stand.check(Case("", claims={"client_id": "x"}))
    assert stand.checked == 2


@in_loop
async def test_a_long_token_is_remembered_too_and_takes_no_more_room_than_a_short_one(stand: Stand):
    case = Case("", claims={"groups": ["a-long-name-of-a-group"] * 200})
    first = await stand.check(case)
    assert await stand.check(case) == first
    assert stand.checked == 1
    assert all(len(told) <= bearers.MAX_TOLD_BYTES for _, _, told in stand.bearers._verdicts)


@in_loop
async def test_no_more_verdicts_are_remembered_than_a_bound(stand: Stand):
    before = bearers.MAX_VERDICTS
    bearers.MAX_VERDICTS = 3  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for number in range(5):
            await stand.check(Case("", claims={"sub": f"user-{number}"}))
        assert len(stand.bearers._verdicts) == 3
    finally:
        bearers.MAX_VERDICTS = before  # pyright: ignore[reportAttributeAccessIssue]


@in_loop
async def test_whoever_is_known_at_once_is_whom_the_long_check_knows(stand: Stand):
    await stand.check()
    known = 0
    for case in (*jwt_cases.NEAR_MISSES, *jwt_cases.ATTACKS):
        sent = case.headers()
        if len(sent) != 1 or sent[0][0].lower() != "authorization" or case.query:
            continue
        at_once = stand.bearers.at_once(target(case.runtime, "one"), sent[0][1].encode())
        try:
            checked = await stand.check(case)
        except FreeholdError:
            checked = None
        if at_once is not None:
            assert at_once.principal == checked, case.name
            known += 1
    assert known > len(jwt_cases.NEAR_MISSES) / 2


@in_loop
async def test_a_header_with_anything_but_a_token_in_it_is_left_to_the_long_check(stand: Stand):
    await stand.check()
    token = Case("", claims={"sub": "another"}).token().encode()
    assert stand.bearers.at_once(target("clients", "one"), b"Bearer " + token) is not None
    for odd in (
        b"Bearer  " + token,
        b"Bearer " + token + b" ",
        b"bearer " + token,
        b" Bearer " + token,
        b"Bearer\t" + token,
        b"Bearer " + token + b"=",
        b"Bearer " + token + b" x",
        b"Bearer " + token + b"," + token,
        b"DPoP " + token,
        b"Bearer ",
        b"Bearer",
        b"",
        token,
    ):
        assert stand.bearers.at_once(target("clients", "one"), odd) is None, odd


@in_loop
async def test_however_many_come_at_once_control_is_asked_once(stand: Stand):
    await asyncio.gather(*(stand.check(Case("", claims={"sub": f"user-{number}"})) for number in range(20)))
    assert stand.asked == [None]


@in_loop
async def test_keys_are_asked_for_again_beside_their_use(stand: Stand):
    await stand.check()
    stand.now += 301
    stand.told = jwt_runtimes.key_set({"keys": [public_jwk("rsa-2")]})
    await stand.check()
    await stand.settle()
    assert stand.asked == [None, None]
    with pytest.raises(TokenRefused):
        await stand.check()


@in_loop
async def test_while_control_is_away_known_keys_go_on_and_not_beyond_their_time(stand: Stand):
    await stand.check()
    stand.told = Unavailable("control is away")
    stand.key_sets.doubt()
    for _ in range(3):
        stand.now += 2000
        await stand.check(Case("", claims={"exp": NOW + 99_999}))
        await stand.settle()
    stand.now = NOW + 7201
    with pytest.raises(Unavailable):
        await stand.check(Case("", claims={"exp": NOW + 99_999}))


@in_loop
async def test_a_control_that_has_just_come_and_has_no_keys_takes_none_away(stand: Stand):
    await stand.check()
    stand.told = NoKeySet()
    stand.key_sets.doubt()
    await stand.check()
    await stand.settle()
    await stand.check(Case("", claims={"sub": "another"}))


@in_loop
async def test_of_a_newer_generation_nothing_old_is_used(stand: Stand):
    await stand.check()
    stand.told = jwt_runtimes.key_set({"keys": [public_jwk("rsa-2")]})
    stand.key_sets.forget([jwt_runtimes.key_set().name])
    with pytest.raises(TokenRefused):
        await stand.check()


@in_loop
async def test_a_key_that_could_not_be_had_is_not_asked_for_again_at_once(stand: Stand):
    attack = Case("", header={"kid": "unheard-of"}, signer="rsa/stranger")
    for _ in range(5):
        with pytest.raises(TokenRefused):
            await stand.check(attack)
    generation = jwt_runtimes.key_set().generation
    assert stand.asked == [None, generation]
    stand.now += 11
    with pytest.raises(TokenRefused):
        await stand.check(attack)
    assert stand.asked == [None, generation, generation]


@in_loop
async def test_a_rotated_key_is_found_though_another_was_missed_just_before(stand: Stand):
    with pytest.raises(TokenRefused):
        await stand.check(Case("", header={"kid": "unheard-of"}, signer="rsa/stranger"))
    stand.told = jwt_runtimes.key_set({"keys": [*jwt_cases.KEY_SET["keys"], public_jwk("rsa/stranger")]})
    assert await stand.check(Case("", header={"kid": "rsa/stranger"}, signer="rsa/stranger"))
