"""The page of `prefdata explore` in a real Chromium. `python tests/real/test_explore_page.py` makes docs/explore.png anew."""

import html
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import explore_rows
from browser import PHONE, Visit, browser, visit
from conftest import nectar, run_stages
from literal_sets import candidate, put, row
from test_show import HOSTILE, words_with_marks

from prefdata.models.tokens import load_encoder
from prefdata.output.escape import visible, visible_lines
from prefdata.output.explore import of_set
from prefdata.output.looking.opened import open_set

pytestmark = pytest.mark.real
__all__ = ["browser", "visit"]
PICTURE = Path(__file__).parents[2] / "docs" / "explore.png"


def written(folder: Path, to: Path, **more: Any) -> Path:
    of_set.write(open_set(str(folder), candidates=True), to, more.get("encoder"), more.get("limit", 10_000))
    return to


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return written(explore_rows.results(folder / "questions"), folder / "page.html")


def test_it_opens_with_an_overview_and_problems_first(visit: Any, small: Path) -> None:
    v = visit(small)
    assert v.page.title() == "questions"
    assert v.texts("#found")[0].startswith("20 of 20 prompts")
    assert {"Problems", "Answers dropped", "Models", "Rank of the answer that the kernel draws"} <= set(v.texts(".chart h3"))
    worst = [bool(v.of("i => data.prompts.problems[i].length", i)) for i in v.of("state.found(state.parse(''))")]
    assert worst == sorted(worst, reverse=True)
    assert any(worst)
    assert "orders disagree" in v.texts(".row")[0]


def test_every_bar_opens_as_many_prompts_as_it_counts(visit: Any, small: Path) -> None:
    v = visit(small)
    bars = v.page.locator(".bar")
    assert bars.count() > 20
    for place in range(bars.count()):
        count = int(bars.nth(place).locator(".count").inner_text())
        bars.nth(place).click()
        v.wait(f"document.getElementById('found').textContent.startsWith('{count} of 20')")
        bars.nth(place).click()
        v.wait("document.getElementById('found').textContent.startsWith('20 of 20')")


def answers(number: int) -> list[tuple[str, int, str]]:
    """Of one prompt: lengths that vary, two texts that are equal, one of the same words, ties."""
    kinds = [
        [("ab" * number + "x", 1, "first"), ("ba", 2, "second"), ("cab", 3, "third")],
        [("ab", 1, "first"), ("AB.", 2, "second"), ("cab" * number, 3, "third")],
        [("ab", 2, "first"), ("cab", 1, "second"), ("dcab", 1, "third")],
        [("ab", 1, "first"), ("ab", 2, "second"), ("cab", 3, "third")],
    ]
    return kinds[number % len(kinds)]


def test_what_the_quality_report_counts_opens_as_many_prompts(visit: Any, make_run: Any, write_rows: Any) -> None:
    rows = [nectar(f"S{number}a", answers(number)) for number in range(40)]
    run = make_run(
        sources={"sources": [{"name": "s", "path": write_rows(rows)}]}, prune={"drop_ranks": []}, noise={"copies": 0}
    )
    run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "page")
    report = (run.root / "report" / "quality.html").read_text()
    cells = re.findall(r'<a href="([^"]+)">(\d+)</a>', report.partition("What was dropped")[0])
    bars = re.findall(r'<a xlink:href="([^"#]+#ratio[^"]+)"><path aria-label="[^"]*prompts: (\d+)', report)
    assert len(cells) > 8
    assert len(bars) > 4
    assert {"problem=same_words", "problem=tied", "copies=1.0..", "chosenBy=first"} <= {a.partition("#")[2] for a, _ in cells}
    for address, count in cells + bars:
        path, _, filters = html.unescape(address).partition("#")
        v = visit((run.root / "report" / path).resolve(), f"#{filters}")
        v.wait(f"document.getElementById('found').textContent.startsWith('{count} of')")
        assert v.of("Object.entries(state.parse(location.hash)).filter(([k, x]) => x !== state.DEFAULTS[k]).length")


def test_filters_search_and_order(visit: Any, small: Path) -> None:
    v = visit(small)
    v.page.fill("#search", "RAIN")
    v.wait("document.getElementById('found').textContent.startsWith('4 of 20')")
    assert all("rain" in t for t in v.texts(".row .begins"))
    v.page.locator("summary", has_text="filters").click()
    v.page.get_by_label("split", exact=True).select_option("test")
    v.wait("document.getElementById('found').textContent.startsWith('1 of 20')")
    v.page.get_by_role("button", name="show all").click()
    v.page.get_by_label("margin from").fill("0")
    v.page.get_by_label("margin from").press("Enter")
    v.wait("location.hash.includes('margin=0..')")
    shown = v.of("state.found(state.parse(location.hash)).map(i => data.prompts.margin[i])")
    assert shown == [m for m in shown if m >= 0]
    assert 0 < len(shown) < 20
    v.page.locator(".search select").select_option("-margin")
    v.wait("location.hash.includes('sort=-margin')")
    values = v.of("state.found(state.parse(location.hash)).map(i => data.prompts.margin[i])")
    assert values == sorted(values, reverse=True)


def test_one_prompt_shows_all_that_is_known(visit: Any, small: Path) -> None:
    own = next(r for n, r in enumerate(explore_rows.rows()) if n == 0)
    v = visit(small, f"#prompt={own['prompt_id']}")
    assert v.opened() == own["prompt_id"]
    v.page.wait_for_selector("#c6")
    texts = v.texts(".cards .text")
    assert sorted(texts) == sorted(c["response"].replace("  ", "  ") for c in own["candidates"])
    first = v.page.locator("#c1").inner_text()
    logps = own["candidates"][0]["logps"]
    for told in ("1. chosen", "rank 1", "score 1", "source by human", *(f"{x['logp']:.3f}" for x in logps)):
        assert told in first
    assert "temperature 0.7" in v.page.locator("#c3").inner_text()
    assert "of answer 1" in v.page.locator("#c6").inner_text()
    verdicts = v.page.locator(".verdicts").inner_text()
    for told in ("judge-70b", "it answers what was asked", "answer 1", "answer 2"):
        assert told in verdicts
    assert "An answer that is too close to the best." in v.page.locator(".dropped").inner_text()
    v.page.locator("#c1 .pick button").first.click()
    v.page.locator("#c3 .pick button").last.click()
    v.page.wait_for_selector(".difference")
    one, other = texts[0], texts[2]
    v.wait("document.querySelector('.difference pre')")
    kept = v.of(
        "n => [...document.querySelector('.difference pre').childNodes].filter(x => x.nodeName !== n).map(x => x.textContent).join('')",
        "INS",
    )
    assert kept == one
    kept = v.of(
        "n => [...document.querySelector('.difference pre').childNodes].filter(x => x.nodeName !== n).map(x => x.textContent).join('')",
        "DEL",
    )
    assert kept == other


def test_keys_and_history(visit: Any, small: Path) -> None:
    v = visit(small)
    order = v.of("state.found(state.parse('')).map(i => data.prompts.id[i])")
    for key, expected in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        v.page.keyboard.press(key)
        v.wait(f"document.querySelector('.prompt h2')?.textContent === '{order[expected]}'")
    v.page.go_back()
    v.wait(f"document.querySelector('.prompt h2')?.textContent === '{order[2]}'")
    v.page.keyboard.press("Escape")
    v.page.wait_for_selector(".chart")
    v.page.keyboard.press("?")
    assert "next and previous prompt" in v.page.locator(".help").inner_text()
    v.page.keyboard.press("Escape")
    v.page.wait_for_selector(".help", state="detached")
    v.page.keyboard.press("/")
    v.page.keyboard.type("jk?")
    assert v.page.locator("#search").input_value() == "jk?"
    assert v.page.locator(".help").count() == 0


def test_an_address_gives_back_what_was_seen(visit: Any, small: Path) -> None:
    v = visit(small)
    v.page.locator(".bar", has_text="small@1").click()
    v.page.locator(".row").first.click()
    v.page.get_by_label("log π is that of").select_option("1")
    for name, value in (("beta", "0.5"), ("steps", "3"), ("proposals", "2"), ("count", "2")):
        v.page.locator(f"input[name={name}]").fill(value)
    v.page.locator("#c1 .pick button").first.click()
    v.page.locator("#c2 .pick button").last.click()
    v.page.wait_for_selector(".difference")
    seen = [v.opened(), v.texts("#found"), v.texts(".cards"), v.texts(".difference"), v.texts(".slider output")]
    again = visit(small, v.of("location.hash"))
    again.page.wait_for_selector(".difference")
    assert [
        again.opened(),
        again.texts("#found"),
        again.texts(".cards"),
        again.texts(".difference"),
        again.texts(".slider output"),
    ] == seen
    assert v.texts(".slider output") == ["3.16", "3", "2", "2"]


def test_an_address_from_anybody_does_no_harm(visit: Any, small: Path) -> None:
    bad = "#prompt=nothing&beta=-1e999&steps=x&policy=99&reference=__proto__&weight=constructor&sort=&__proto__=1&q=%00<img src=x>"
    v = visit(small, bad)
    assert v.texts("#found")[0].startswith("0 of 20")
    assert v.of("state.kernelOf(state.parse(location.hash)).policy") == 1


def test_hostile_texts_are_shown_as_text(visit: Any, tmp_path: Path) -> None:
    bad = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'><b>b</b>" + HOSTILE
    made = [candidate(1, "chosen", bad, 1, {bad: -1.0}, producer=bad), candidate(2, "rejected", bad + " more", 2, {bad: -2.0})]
    folder = put(tmp_path / "set", [row("a", made, bad, source=bad)])
    v = visit(written(folder, tmp_path / "page.html"), "#left=1&right=2&prompt=" + "a".ljust(16, "0"))
    v.page.wait_for_selector("#c2")
    assert v.of("document.querySelector('#c1 .text').textContent") == visible_lines(bad)
    assert v.of("document.querySelector('.message .text').textContent") == visible_lines(bad)
    assert visible(bad) in v.of("document.querySelector('.logps').textContent")
    assert v.of("document.querySelectorAll('#root img, #root b b, #root script').length") == 0
    v.page.keyboard.press("Escape")
    v.page.wait_for_selector(".chart")
    assert visible(bad) in v.texts(".bar .label")
    assert v.of("window.pwned") is None


def test_the_policy_stops_what_is_put_in(browser: Any, small: Path) -> None:
    v = Visit(browser, small)
    tried = """() => new Promise((done) => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", (e) => { seen.push(e.effectiveDirective); if (seen.length === 3) done(seen); });
        const script = document.createElement("script"); script.textContent = "window.pwned = 1"; document.body.append(script);
        const image = new Image(); image.src = "http://127.0.0.1:9/x.png"; document.body.append(image);
        fetch("http://127.0.0.1:9/").catch(() => {});
    })"""
    assert sorted(v.of(tried)) == ["connect-src", "img-src", "script-src-elem"]
    assert v.of("window.pwned") is None
    v.close()


def test_tokens_are_shown_with_their_ids(visit: Any, tmp_path: Path) -> None:
    made = [candidate(1, "chosen", "the cat", 1), candidate(2, "rejected", "dog", 2)]
    folder = put(tmp_path / "set", [row("a", made, "the cat")])
    encoder = load_encoder(str(words_with_marks(tmp_path / "t")), template="plain")
    v = visit(written(folder, tmp_path / "page.html", encoder=encoder), "#prompt=" + "a".ljust(16, "0"))
    v.page.locator("summary", has_text="Tokens by").click()
    told = v.of(
        "[...document.querySelectorAll('.tokens')].map(p => [p.className, [...p.querySelectorAll('.token')].map(t => Number(t.title))])"
    )
    ids = encoder.completions(["the cat"], ["stop"])[0]
    assert told[0] == ["tokens", encoder.prompt([{"role": "user", "content": "the cat"}])]
    assert told[1] == ["tokens loss", ids[:-1]]
    assert told[2] == ["tokens loss", ids[-1:]]
    assert "do not give the answer back" in v.page.locator("details[open]", has_text="Tokens by").inner_text()


def test_ten_thousand_prompts(visit: Any, tmp_path: Path) -> None:
    made = [
        row(
            f"{n:016x}",
            [
                candidate(3 * n + k, "rejected" if k else "chosen", f"answer {n} {k}", k + 1, {"p": -1.0 - k, "q": -2.0})
                for k in range(3)
            ],
            f"question {n}",
        )
        for n in range(10_000)
    ]
    v = visit(written(put(tmp_path / "set", made, shards=1), tmp_path / "page.html"))
    assert v.texts("#found")[0].startswith("10,000 of 10,000")
    assert v.page.locator(".row").count() < 60, "only what is seen is in the document"
    assert v.of("document.querySelectorAll('script[type=\"text/plain\"]').length") == 1 + 157
    v.page.locator(".search select").select_option("id")
    v.wait("location.hash.includes('sort=id')")
    v.of("() => { const list = document.getElementById('list'); list.scrollTop = list.scrollHeight; }")
    v.page.locator(".row", has_text="question 9999").click()
    v.wait("document.querySelector('#c3 .text')?.textContent === 'answer 9999 2'")
    v.page.fill("#search", "question 77")
    v.wait("document.getElementById('found').textContent.startsWith('111 of')")
    v.page.keyboard.press("Escape")
    v.page.keyboard.press("j")
    v.wait("document.querySelector('#c1 .text')?.textContent === 'answer 77 0'")
    assert v.page.locator(".row").count() < 60


def test_a_phone_has_one_column(visit: Any, small: Path) -> None:
    v = visit(small, viewport=PHONE, has_touch=True)
    for selector in (".row", ".chart"):
        assert v.page.locator(selector).first.is_visible()
    v.page.locator(".row").first.tap()
    v.page.wait_for_selector("#c1")
    assert not v.page.locator("#list").is_visible()
    assert v.of("document.documentElement.scrollWidth") <= PHONE["width"]
    assert v.of("document.querySelector('.cards').scrollWidth - document.querySelector('.cards').clientWidth") == 0
    v.page.get_by_role("button", name="← prompts").tap()
    v.wait("document.querySelector('#list')?.offsetParent !== null")


def test_dark_mode_follows_the_system(visit: Any, small: Path) -> None:
    light, dark = (
        visit(small, color_scheme=scheme).of("getComputedStyle(document.body).backgroundColor") for scheme in ("light", "dark")
    )
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")


def picture(browser: Any, small: Path, to: Path) -> None:
    v = Visit(browser, small, "#policy=1&beta=0.5", viewport={"width": 1160, "height": 760})
    v.page.keyboard.press("j")
    v.page.locator("#c1 .pick button").first.click()
    v.page.locator("#c3 .pick button").last.click()
    v.page.wait_for_selector(".difference")
    v.of("() => { document.querySelector('.cards').scrollLeft = 0; document.getElementById('main').scrollTop = 60; }")
    v.page.screenshot(path=str(to))
    v.close()


def test_the_picture_of_the_docs_is_one_of_this_page(browser: Any, small: Path, tmp_path: Path) -> None:
    picture(browser, small, tmp_path / "now.png")
    now, kept = ((p.read_bytes()[:8], p.read_bytes()[16:24]) for p in (tmp_path / "now.png", PICTURE))
    assert now == kept, "another size; run python tests/real/test_explore_page.py"
    assert PICTURE.stat().st_size < 200_000


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        page = written(explore_rows.results(Path(name) / "questions"), Path(name) / "page.html")
        from browser import FLAGS, chromium
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            made = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            picture(made, page, PICTURE)
            made.close()
