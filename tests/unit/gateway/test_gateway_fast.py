"""Which form of the gateway a server uses: `gateway.compiled`, and what there is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold import compose, configs, doctor, gateway, settings
from freehold.child import CannotServe, Life
from freehold.gateway import fast, worker

MODULES = {
    "fastpath": ("Agent", "FastPassages"),
    "fastpipe": ("Chunks", "Messages"),
    "fastseats": (),
    "lane": (),
    "outlet": (),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the compiled form is looked for, and is not. The rest of the gateway has been loaded."""
    assert worker.__name__ in sys.modules
    real = fast.load()  # what is loaded now is what other tests get
    for name in MODULES:
        monkeypatch.delitem(sys.modules, f"freehold.gateway.{name}", raising=False)
    monkeypatch.setattr(gateway, "__path__", [str(tmp_path)])
    yield tmp_path
    if real is None:
        for name in MODULES:
            sys.modules.pop(f"freehold.gateway.{name}", None)


@pytest.fixture
def built(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that stands for its parts, beside their sources; one of them."""
    for name, classes in MODULES.items():
        (place / f"{name}.pyx").touch()
        os.utime(place / f"{name}.pyx", ns=(0, 0))
        (place / f"{name}.py").write_text("".join(f"class {of}:\n    pass\n" for of in classes))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return place / "fastpipe.py"


def chosen(choice: str) -> settings.Settings:
    return settings.load(environment={"FREEHOLD_GATEWAY__COMPILED": choice})


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_the_compiled_form_is_used_where_it_is(built: Path, choice: fast.Choice):
    found = fast.load(choice)
    assert found is not None
    assert Path(sys.modules[found.messages.__module__].__file__ or "") == built


def test_a_wheel_holds_no_source_to_be_compared_with(built: Path):
    built.with_suffix(".pyx").unlink()
    assert fast.load() is not None


def test_it_is_not_used_where_it_is_not_wanted(built: Path):
    assert fast.load("never") is None


def test_without_it_a_server_runs_in_pure_python(place: Path):
    assert fast.load("auto") is None
    assert fast.load("never") is None


def test_one_that_is_older_than_its_source_is_not_used(built: Path):
    built.with_suffix(".pyx").touch()
    os.utime(built, ns=(0, 0))
    assert fast.load("auto") is None
    with pytest.raises(fast.NotBuilt, match="a source that has changed since"):
        fast.load("always")


def test_one_that_can_not_be_loaded_is_no_reason_to_go_on_without(built: Path):
    built.write_text("import nowhere_to_be_found\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        fast.load("auto")


def test_where_it_must_be_used_and_is_not_there_a_worker_says_how_to_build_it(place: Path, tmp_path: Path):
    plan = configs.plan(chosen("always"), data_dir=tmp_path, url="http://127.0.0.1:1")
    told = r"gateway\.compiled is 'always'.*not compiled for this Python.*gcc.*\./dev setup"
    with pytest.raises(CannotServe, match=told):
        asyncio.run(compose.run_gateway(plan.gateway(0, -1), Life(-1, -1)))


def finding(choice: str) -> doctor.Finding:
    (found,) = doctor.of_gateway(chosen(choice))
    return found


def test_doctor_says_that_it_is_there(built: Path):
    assert (finding("auto").state, finding("auto").told) == (doctor.State.OK, "compiled")


@pytest.mark.parametrize(("choice", "state"), [("auto", doctor.State.WARNING), ("always", doctor.State.FAILED)])
def test_doctor_says_how_to_get_it(place: Path, choice: str, state: doctor.State):
    found = finding(choice)
    assert found.state is state
    assert found.told == "not compiled for this Python: in pure Python it takes longer"
    assert found.remedy == fast.HOW_TO_BUILD


def test_doctor_misses_nothing_where_it_is_not_wanted(place: Path):
    assert finding("never").state is doctor.State.OK
    assert finding("never").remedy is None
