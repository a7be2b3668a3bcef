"""/ping answers as they come in the wild (spec sections 1.2 and 13)."""

import pytest

from freehold.domain.sessions import Health
from freehold.warden.health import PingAnswer, read_answer


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"status":"Healthy"}', PingAnswer(Health.HEALTHY, 200)),
        (b'{"status":"HealthyBusy","time_of_last_update":1700000000}', PingAnswer(Health.BUSY, 200, 1700000000.0)),
        (
            b'{"status":"Healthy","time_of_last_update":"2026-01-02T03:04:05Z"}',
            PingAnswer(Health.HEALTHY, 200, 1767323045.0),
        ),
        (b'{"status":"Healthy","time_of_last_update":"soon"}', PingAnswer(Health.HEALTHY, 200)),
        (b'{"status":"Healthy","time_of_last_update":true}', PingAnswer(Health.HEALTHY, 200)),
        (b'{"status":"ok"}', PingAnswer(Health.HEALTHY, 200)),
        (b'{"status":7}', PingAnswer(Health.HEALTHY, 200)),
        (b'"healthy"', PingAnswer(Health.HEALTHY, 200)),
        (b"ok", PingAnswer(Health.HEALTHY, 200)),
        (b"", PingAnswer(Health.HEALTHY, 200)),
        (b"\xff\xfe", PingAnswer(Health.HEALTHY, 200)),
    ],
)
def test_any_200_is_healthy_and_only_healthy_busy_is_busy(body, expected):
    assert read_answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body) == expected


@pytest.mark.parametrize("status", [204, 301, 404, 500, 503])
def test_any_other_status_is_unhealthy(status):
    answer = read_answer(b'HTTP/1.1 %d X\r\n\r\n{"status":"Healthy"}' % status)
    assert answer == PingAnswer(Health.UNHEALTHY, status)


@pytest.mark.parametrize(("status", "health"), [(204, Health.HEALTHY), (404, Health.HEALTHY), (503, Health.UNHEALTHY)])
def test_where_ping_is_optional_a_server_without_it_is_healthy(status, health):
    assert read_answer(b"HTTP/1.1 %d X\r\n\r\n" % status, ping_optional=True) == PingAnswer(health, status)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_not_http_is_an_error(answer):
    with pytest.raises(ValueError, match="not HTTP"):
        read_answer(answer)
