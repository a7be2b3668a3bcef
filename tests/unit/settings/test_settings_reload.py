from __future__ import annotations

from freehold import configs
from freehold.reload import reload
from freehold.settings import Settings, load


def settings(**sections: dict[str, object]) -> Settings:
    return load(flags=dict(sections), environment={})


def test_what_may_change_is_taken_over_and_the_rest_is_named():
    running = settings(server={"port": 1}, log={"level": "info"})
    wanted = settings(server={"port": 2}, log={"level": "debug", "format": "json"}, sessions={"max_sessions": 3})
    done = reload(running, wanted, configs.RELOADABLE.__contains__)
    assert done.taken_over == ("log.level", "sessions.max_sessions")
    assert done.need_restart == ("log.format", "server.port")
    assert done.settings == settings(server={"port": 1}, log={"level": "debug"}, sessions={"max_sessions": 3})


def test_what_waits_for_a_restart_is_named_each_time():
    running = settings()
    wanted = settings(server={"port": 2})
    first = reload(running, wanted, configs.RELOADABLE.__contains__)
    assert first.settings == running
    assert reload(first.settings, wanted, configs.RELOADABLE.__contains__).need_restart == ("server.port",)


def test_every_reloadable_setting_exists():
    for name in configs.RELOADABLE:
        section, _, key = name.partition(".")
        assert key in type(getattr(settings(), section)).model_fields
