"""The documentation: links that lead somewhere, generated pages that are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import check_docs, reference

ROOT = Path(__file__).parents[3]


def test_every_link_leads_somewhere_and_every_page_is_reached():
    assert list(check_docs.problems(ROOT)) == []


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_generated_pages_are_up_to_date(name: str):
    assert (reference.REFERENCE / name).read_text() == reference.PAGES[name]()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Index\n[a](a.md#the-second-part) [out](https://example.com/x)\n")
    (tmp_path / "docs" / "a.md").write_text("# A\n## The *second* part\n```\n[not a link](nowhere.md)\n```\n")
    return tmp_path


def test_good_links_are_no_problem(site: Path):
    assert list(check_docs.problems(site)) == []


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[x](b.md)", "no such file"),
        ("[x](a.md#nothing)", "no such heading"),
        ("[x](#nothing)", "no such heading"),
        ("[x](../../outside.md)", "no such file"),
    ],
)
def test_bad_links_are_told(site: Path, link: str, problem: str):
    (site.parent / "outside.md").write_text("# Outside\n")
    with (site / "docs" / "index.md").open("a") as index:
        index.write(f"{link}\n")
    (told,) = check_docs.problems(site)
    assert told.startswith("docs/index.md: ")
    assert problem in told


def test_a_page_that_nothing_leads_to_is_told(site: Path):
    (site / "docs" / "lonely.md").write_text("# Lonely\n")
    assert list(check_docs.problems(site)) == ["docs/lonely.md: no way leads here from docs/index.md"]


def test_headings_that_are_alike_get_numbered_anchors(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Twice\n## Twice\n## `code_name`: what it is\n")
    assert check_docs.anchors(page) == {"twice", "twice-1", "code_name-what-it-is"}
