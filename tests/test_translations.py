"""Chinese pages have the content of the English ones: code, links, commands, names and figures."""

from __future__ import annotations

import importlib
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GROUPS = ("Concepts", "Guides", "Clients")  # of the navigation; their pages have a Chinese version
CHINESE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.zh.md"), *(ROOT / "docs").rglob("*.zh.md"))
)
CODE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HAN = re.compile(r"[\u3400-\u9fff]")
NUMBER = re.compile(r"(?<![A-Za-z])\d+(?:,\d{3})*(?:\.\d+)*")
UNITS = {"million": 1e6, "M": 1e6, "万": 1e4, "亿": 1e8}
COUNTED = re.compile(rf"((?:{NUMBER.pattern}, )*{NUMBER.pattern}) ?({'|'.join(UNITS)})(?![A-Za-z])")
COMMAND = re.compile(r"(?:make|gritlm|pip|python|torchrun|docker|curl) ")


@pytest.fixture(scope="module")
def translation() -> Iterator[ModuleType]:
    """The module of the site that knows both languages."""
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    yield importlib.import_module("translation")
    sys.path.pop(0)
    sys.modules.pop("translation", None)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def english_of(path: str) -> str:
    return path.removesuffix(".zh.md") + ".md"


def guides() -> set[str]:
    navigation = yaml.safe_load(read("mkdocs.yml"))["nav"]
    found = [pages for group in navigation for name, pages in group.items() if name in GROUPS]
    entries = [entry for pages in found for entry in pages]
    paths = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    return {f"docs/{path}" for path in paths}


@pytest.fixture(params=CHINESE)
def chinese(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_guide_has_a_chinese_page():
    missing = {page for page in guides() if page.removesuffix(".md") + ".zh.md" not in CHINESE}
    assert not missing
    assert "README.zh.md" in CHINESE


def test_a_chinese_page_has_the_code_blocks_of_the_english_page(chinese, translation):
    fenced = translation.FENCED
    assert fenced.findall(read(chinese)) == fenced.findall(read(english_of(chinese)))


def test_a_chinese_page_has_the_headings_of_the_english_page(chinese, translation):
    pages = [translation.headings(read(path)) for path in (chinese, english_of(chinese))]
    levels, expected = ([each.level for each in page] for page in pages)
    assert levels == expected
    words = [each.title for each in pages[0][1:] if not each.title.startswith("`")]
    untranslated = [title for title in words if not HAN.search(title)]
    assert {*untranslated} <= {each.title for each in pages[1]}  # names such as "LangChain"


def places(path: str, translation: ModuleType) -> Counter[tuple[str, int]]:
    """Return the links of a page: the English page, and the number of the heading there."""
    found: Counter[tuple[str, int]] = Counter()
    for link in LINK.findall(translation.without_switch(translation.FENCED.sub("", read(path)))):
        target, _, place = link.partition("#")
        if "://" in link:
            found[link, 0] += 1
            continue
        page = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        page = page if target else path
        anchors = [each.anchor for each in translation.headings(read(page))] if place else [""]
        assert place in anchors, f"{path} links to {link}; expected one of {anchors}"
        found[in_english(page), anchors.index(place)] += 1
    return found


def in_english(page: str) -> str:
    """Return the English page, or the picture of the page in English."""
    if page.endswith(".zh.md"):
        return english_of(page)
    return re.sub(r"-zh(?=\.(?:png|webp)$)", "", page)


def test_a_chinese_page_links_where_the_english_page_links(chinese, translation):
    assert places(chinese, translation) == places(english_of(chinese), translation)


def test_a_chinese_page_links_to_the_chinese_pages_that_exist(chinese):
    links = LINK.findall(read(chinese))
    targets = {link.partition("#")[0] for link in links} - {Path(english_of(chinese)).name}
    there = [target.removesuffix(".md") + ".zh.md" for target in targets if target.endswith(".md")]
    folder = (ROOT / chinese).parent
    assert [page for page in there if (folder / page).is_file()] == []


def test_both_languages_link_to_each_other(chinese):
    zh, en = Path(chinese).name, Path(english_of(chinese)).name
    assert f"[English]({en}) | 中文" in read(chinese).splitlines()[:4]
    assert f"English | [中文]({zh})" in read(english_of(chinese)).splitlines()[:4]


def test_a_chinese_page_names_the_commands_and_settings_of_the_english_page(chinese, translation):
    here, there = (
        {" ".join(code.split()) for code in CODE.findall(translation.FENCED.sub("", read(path)))}
        for path in (chinese, english_of(chinese))
    )
    # Words of a placeholder may be translated, as in `GritLM("folder or hub id")`.
    translated = {code for code in here if HAN.search(code)}
    missing = there - here
    assert len(missing) <= len(translated), missing
    assert [code for code in missing if COMMAND.match(code) or " " not in code] == []


def figures(text: str) -> Counter[str]:
    """Return the numbers of a page that are not in code or in addresses; 135 million is 1.35 亿.

    Single digits are left out, because they may be words.
    """

    def counted(found: re.Match[str]) -> str:
        numbers = NUMBER.findall(found[1])
        return ", ".join(
            f"{float(each.replace(',', '')) * UNITS[found[2]]:.0f}" for each in numbers
        )

    text = re.sub(r"\]\([^)]*\)", "]", CODE.sub("", text))
    found = NUMBER.findall(COUNTED.sub(counted, text))
    return Counter(each.replace(",", "") for each in found if len(each) > 1)


def test_a_chinese_page_has_the_figures_of_the_english_page(chinese, translation):
    here, there = (
        figures(translation.FENCED.sub("", read(path))) for path in (chinese, english_of(chinese))
    )
    missing = there - here
    assert not missing


def test_figures_are_compared_in_the_units_of_both_languages():
    assert figures("135 million, 135M; 12, 94 million; 1,900 of 2.5 MB") == figures(
        "1.35 亿、1.35 亿；1200 万、9400 万；1900、2.5 MB"
    )


def test_a_chinese_page_has_the_tables_of_the_english_page(chinese):
    rows, expected = (
        [line.count("|") for line in read(path).splitlines() if line.startswith("|")]
        for path in (chinese, english_of(chinese))
    )
    assert rows == expected


def test_the_site_has_one_anchor_in_both_languages(translation, tmp_path):
    (tmp_path / "a.md").write_text("# A page\n\n## Several words\n\n## Other\n")
    text = (
        "# 一页\n\n[English](a.md) | 中文\n\n## 几个 词\n\n"
        "[甲](#其他)和[乙](a.zh.md#几个-词)，\n两行。\n\n## 其他\n"
    )
    (tmp_path / "a.zh.md").write_text(text)
    text = translation.without_switch(text)
    assert translation.with_english_anchors(text, "a.zh.md", tmp_path) == (
        "# 一页 {#a-page}\n\n## 几个 词 {#several-words}\n\n"
        "[甲](#other)和[乙](a.md#several-words)，两行。\n\n## 其他 {#other}\n"
    )
    with pytest.raises(ValueError, match="links to #没有; expected one of"):
        translation.with_english_anchors("[甲](#没有)", "a.zh.md", tmp_path)
    (tmp_path / "a.md").write_text("# A page\n")
    with pytest.raises(ValueError, match="give both pages the same headings"):
        translation.with_english_anchors(text, "a.zh.md", tmp_path)


def test_every_title_of_the_navigation_is_translated():
    settings = yaml.safe_load(read("mkdocs.yml"))
    (languages,) = (each["i18n"]["languages"] for each in settings["plugins"] if "i18n" in each)
    (translated,) = (each["nav_translations"] for each in languages if each["locale"] == "zh")

    def titles(entries: list[dict | str]) -> Iterator[str]:
        for entry in entries:
            for title, below in ({} if isinstance(entry, str) else entry).items():
                yield title
                if isinstance(below, list):
                    yield from titles(below)

    assert {*titles(settings["nav"])} == {*translated}
