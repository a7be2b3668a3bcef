"""Keys of identity providers: fetched, kept, renewed, bounded; from real servers on loopback, with a clock in hand."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from identity_provider import DISCOVERY, Provider, authority
from jwt_tokens import public_jwk

from freehold.control import authorizers
from freehold.control.authorizers import KeySource
from freehold.control.fetching import Fetcher, FetchFailed
from freehold.control.key_sets import RENEWAL_INTERVAL_S, RENEWALS, Ages, Kept, KeySets, NoKeys
from freehold.control.reach import PUBLIC_INTERNET, Reach

LOOPBACK = Reach((ipaddress.ip_network("127.0.0.0/8"),), allow_http=True)
ONE, TWO = {"keys": [public_jwk("es256")]}, {"keys": [public_jwk("es256"), public_jwk("es384")]}
HOST = "id.tests.example"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stand:
    """A provider and the key sets that are fetched from it."""

    def __init__(self, provider: Provider, reach: Reach = LOOPBACK, **fetcher: Any) -> None:
        self.provider = provider
        self.clock = Clock()
        self.certificate: str | Exception = ""
        self.told: list[str] = []
        self.sets = KeySets(Fetcher(reach, **fetcher), self._read, Ages(refresh_s=300, max_s=7200), clock=self.clock)
        self.sets.on_change = self._tell

    @property
    def source(self) -> KeySource:
        return KeySource(self.provider.discovery_url)

    async def get(self, **more: Any) -> Kept:
        return await self.sets.get(self.source, **more)

    @property
    def fetches(self) -> int:
        return self.provider.asked["/keys"]

    async def _read(self, bucket: str, key: str) -> str:
        if isinstance(self.certificate, Exception):
            raise self.certificate
        return self.certificate

    async def _tell(self, name: str) -> None:
        self.told.append(name)


@contextlib.asynccontextmanager
async def standing(**more: Any) -> AsyncIterator[Stand]:
    async with Provider(ONE).run() as provider:
        stand = Stand(provider, **more)
        try:
            yield stand
        finally:
            await stand.sets.aclose()


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # pyright: ignore[reportArgumentType]

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@in_loop
async def test_keys_are_had_by_the_discovery_document():
    async with standing() as stand:
        stand.provider.issuer = "https://another.example/issuer"
        kept = await stand.get()
        assert kept.issuer == "https://another.example/issuer"
        assert [key.kid for key in kept.keys] == ["es256"]
        assert kept.usable_for_s == 7200
        assert kept.refresh_in_s == 300


@in_loop
async def test_however_many_ask_at_once_there_is_one_fetch():
    async with standing() as stand:
        kept = await asyncio.gather(*(stand.get() for _ in range(50)))
        assert len({each.generation for each in kept}) == 1
        assert stand.provider.asked == {DISCOVERY: 1, "/keys": 1}
        stand.clock.now += 299
        await stand.get()
        assert stand.fetches == 1


@in_loop
async def test_keys_are_refreshed_beside_their_use_and_a_change_is_told():
    async with standing() as stand:
        first = await stand.get()
        stand.provider.keys = TWO
        stand.clock.now += 301
        assert await stand.get() != first
        assert (await stand.get()).generation == first.generation, "what is known is good meanwhile"
        await until(lambda: stand.told)
        assert stand.told == [stand.source.name]
        assert (await stand.get()).generation != first.generation
        assert stand.fetches == 2


@in_loop
async def test_the_same_keys_again_are_no_change():
    async with standing() as stand:
        first = await stand.get()
        stand.provider.keys = {"keys": [{**ONE["keys"][0], "x5t": "whatever"}], "more": True}
        stand.clock.now += 601
        assert (await stand.get()).generation == first.generation
        assert (stand.fetches, stand.told) == (2, [])


@in_loop
async def test_keys_that_nobody_asked_for_in_a_while_are_fetched_before_they_are_used():
    async with standing() as stand:
        first = await stand.get()
        stand.provider.keys = TWO
        stand.clock.now += 601
        assert (await stand.get()).generation != first.generation


@in_loop
async def test_a_key_that_is_lacking_is_fetched_at_once():
    async with standing() as stand:
        first = await stand.get()
        stand.provider.keys = TWO
        kept = await stand.get(lacking=first.generation)
        assert {key.kid for key in kept.keys} == {"es256", "es384"}
        assert (await stand.get(lacking=first.generation)).generation == kept.generation
        assert stand.fetches == 2, "who lacks what is old by now gets what is new"


@in_loop
async def test_a_thousand_unknown_keys_cause_a_few_fetches():
    async with standing() as stand:
        generation = (await stand.get()).generation
        for _ in range(1000):
            await stand.get(lacking=generation)
            stand.clock.now += 0.01
        assert stand.fetches - 1 <= RENEWALS + 10 / RENEWAL_INTERVAL_S
        await asyncio.gather(*(stand.get(lacking=generation) for _ in range(1000)))
        assert stand.fetches - 1 <= RENEWALS + 1 + 10 / RENEWAL_INTERVAL_S
        kept = await stand.get()
        assert 0 < kept.renewal_in_s <= RENEWAL_INTERVAL_S, "workers are told not to ask"


@in_loop
async def test_keys_may_be_rotated_as_often_as_their_provider_likes():
    async with standing() as stand:
        generation = (await stand.get()).generation
        for number in range(3 * RENEWALS):
            stand.provider.keys = {"keys": [public_jwk("es256", kid=f"rotated-{number}")]}
            newer = (await stand.get(lacking=generation)).generation
            assert newer != generation
            generation = newer


@in_loop
async def test_keys_go_on_while_their_provider_is_down_for_as_long_as_is_stated():
    async with standing() as stand:
        first = await stand.get()
        stand.provider.answers[DISCOVERY] = unavailable
        stand.clock.now += 7199
        kept = await stand.get()
        assert (kept.generation, kept.usable_for_s) == (first.generation, 1)
        stand.clock.now += 2
        with pytest.raises(NoKeys):
            await stand.get()
        del stand.provider.answers[DISCOVERY]
        stand.clock.now += 60
        assert (await stand.get()).generation == first.generation


@in_loop
async def test_a_provider_that_can_not_be_reached_is_asked_less_and_less():
    async with standing() as stand:
        stand.provider.answers[DISCOVERY] = unavailable
        for _ in range(1000):
            with pytest.raises(NoKeys):
                await stand.get()
            stand.clock.now += 0.1
        assert 5 <= stand.provider.asked[DISCOVERY] <= 9
        del stand.provider.answers[DISCOVERY]
        stand.clock.now += 30
        assert (await stand.get()).keys


@in_loop
async def test_a_provider_that_is_down_is_not_asked_again_for_every_unknown_key():
    async with standing() as stand:
        generation = (await stand.get()).generation
        stand.provider.answers["/keys"] = unavailable
        for _ in range(100):
            assert (await stand.get(lacking=generation)).generation == generation
        assert stand.fetches == 2


@in_loop
async def test_an_empty_key_set_is_what_the_provider_says():
    async with standing() as stand:
        await stand.get()
        stand.provider.keys = {"keys": []}
        stand.clock.now += 601
        assert (await stand.get()).keys == ()


@in_loop
async def test_who_gives_up_takes_nothing_from_the_others():
    async with standing() as stand:
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            entered.set()
            await go_on.wait()
            document = stand.provider.document("/keys") or b""
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(document), document))

        stand.provider.answers["/keys"] = slow
        first, second = asyncio.create_task(stand.get()), asyncio.create_task(stand.get())
        await entered.wait()
        first.cancel()
        go_on.set()
        assert (await second).keys
        assert stand.fetches == 1


# -- going to a URL -----------------------------------------------------------------------------------------------


async def unavailable(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def says(*parts: bytes) -> Any:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "redirect"),
        (says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "status 404"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 2000), "longer than 1024"),
        (
            says(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"400\r\n" + b"x" * 1024 + b"\r\n" + b"1\r\nx\r\n",
            ),
            "longer than 1024",
        ),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), "RemoteProtocolError"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n"), "compressed"),
        (says(b"SSH-2.0-OpenSSH\r\n\r\n"), "RemoteProtocolError"),
        (says(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n"), "RemoteProtocolError"),
        (says(), "closed|RemoteProtocolError"),
        (drip, "longer than 0.3 s"),
        (silence, "longer than 0.3 s"),
    ],
)
def test_what_does_not_answer_as_it_should_is_given_up(answer: Any, reason: str):
    async def test() -> None:
        async with Provider(ONE).run() as provider:
            provider.answers[DISCOVERY] = answer
            fetcher = Fetcher(LOOPBACK, total_timeout_s=0.3, max_bytes=1024)
            with pytest.raises(FetchFailed, match=reason):
                await fetcher.get(provider.discovery_url, places={})

    asyncio.run(test())


@in_loop
async def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_the_one_that_is_asked():
    """What a name that changes its mind would have us do (DNS rebinding)."""
    async with Provider(ONE, host=HOST).run() as provider:
        answers = [["127.0.0.1"], ["169.254.169.254"]]
        asked: list[str] = []

        async def resolve(host: str, _port: int) -> list[str]:
            asked.append(host)
            return answers.pop(0)

        fetcher = Fetcher(LOOPBACK, resolve=resolve)
        assert await fetcher.get(provider.discovery_url, places={}) == provider.document(DISCOVERY)
        assert asked == [HOST]
        assert provider.hosts == [f"{HOST}:{provider.port}"]
        with pytest.raises(FetchFailed, match=r"169\.254\.169\.254 is not a public one"):
            await fetcher.get(provider.discovery_url, places={})


@in_loop
async def test_of_a_names_addresses_only_those_that_may_be_are_tried():
    async with Provider(ONE, host=HOST).run() as provider:

        async def resolve(_host: str, _port: int) -> list[str]:
            return ["10.0.0.1", "127.0.0.9", "127.0.0.1"]

        assert await Fetcher(LOOPBACK, resolve=resolve).get(provider.discovery_url, places={})


@in_loop
async def test_a_provider_may_not_send_the_server_to_places_of_its_choice():
    async with standing() as stand:
        stand.provider.answers[DISCOVERY] = says(
            b"HTTP/1.1 200 OK\r\n\r\n"
            b'{"issuer": "https://a", "jwks_uri": "http://169.254.169.254/latest/meta-data/iam/security-credentials/"}'
        )
        with pytest.raises(NoKeys):
            await stand.get()


@in_loop
async def test_without_a_setting_loopback_is_not_asked():
    async with Provider(ONE).run() as provider:
        stand = Stand(provider, PUBLIC_INTERNET)
        with pytest.raises(NoKeys):
            await stand.get()
        assert not provider.asked


def to_loopback(port: int) -> dict[str, tuple[str, int]]:
    return {HOST: ("127.0.0.1", port)}


@in_loop
async def test_a_private_endpoint_is_where_the_setting_says():
    async with Provider(ONE, host=HOST, tls=True).run() as provider:
        resource = "rcfg-0123456789abcdef0"
        reach = Reach(private_endpoints={resource: ("127.0.0.1", provider.port)})
        lattice = {"selfManagedLatticeResource": {"resourceConfigurationIdentifier": resource}}
        arn = {"resourceConfigurationIdentifier": f"arn:aws:vpc-lattice:eu-west-1:1:resourceconfiguration/{resource}"}
        url = f"https://{HOST}{DISCOVERY}"
        for said in (
            {"privateEndpoint": lattice},
            {"privateEndpoint": {"selfManagedLatticeResource": arn}},
            {"privateEndpointOverrides": [{"domain": HOST.upper(), "privateEndpoint": lattice}]},
        ):
            source = authorizers.key_source_of({"discoveryUrl": url, **said}, reach)
            document = await Fetcher(reach).get(url, places=dict(source.places), authorities=authority().pem)
            assert document == provider.document(DISCOVERY)
        assert provider.hosts == [HOST] * 3, "the name in the URL is whom it is asked as"
        gone = authorizers.key_source_of({"discoveryUrl": url, "privateEndpoint": lattice}, PUBLIC_INTERNET)
        with pytest.raises(FetchFailed, match="has no place"):
            await Fetcher(PUBLIC_INTERNET).get(url, places=dict(gone.places))


@in_loop
async def test_a_private_authority_is_trusted_where_its_certificate_is_named():
    async with Provider(ONE, host="localhost", tls=True).run() as provider:
        reach = Reach((ipaddress.ip_network("127.0.0.0/8"),))
        stand = Stand(provider, reach)
        stand.certificate = authority().pem
        named = KeySource(provider.discovery_url, certificate=("bucket", "ca.pem"))
        assert (await stand.sets.get(named)).keys
        with pytest.raises(NoKeys):
            await stand.sets.get(KeySource(provider.discovery_url))
        other = Stand(provider, reach)
        other.certificate = FetchFailed("it is not there")
        with pytest.raises(NoKeys):
            await other.sets.get(named)


@in_loop
async def test_a_certificate_of_another_host_is_not_trusted():
    async with Provider(ONE, host="localhost", tls=True).run() as provider:

        async def resolve(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        fetcher = Fetcher(Reach((ipaddress.ip_network("127.0.0.0/8"),)), resolve=resolve)
        url = f"https://other.example:{provider.port}{DISCOVERY}"
        with pytest.raises(FetchFailed, match="certificate is not trusted"):
            await fetcher.get(url, places={}, authorities=authority().pem)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_a_source_of_keys_is_the_same_for_all_authorizers_that_name_it():
    def name(**said: Any) -> str:
        return authorizers.key_source_of(
            {"discoveryUrl": "https://a.example/.well-known/openid-configuration", **said}, LOOPBACK
        ).name

    assert name(allowedClients=["a"]) == name(allowedAudience=["b"])
    assert name() != name(certificateConfigurations=[{"s3": {"uri": "s3://bucket/ca.pem"}}])
