"""Opens reports in a real browser, at desktop and phone width, light and dark, and uses them: sorts, filters, opens the evidence.

    pip install playwright                          # the browser is the system's: apt-get install chromium
    python scripts/check_page.py [PAGE ...] [--shots DIR] [--browser /usr/bin/chromium]
                                                    # default: every reports/*/index.html

Fails where the script of a page reports an error, a page is wider than its window or asks the network for anything, sorting
does not sort, filtering does not hide, or a cell does not lead to its points. Prints how long each page takes to load. With
--shots it leaves pictures to be looked at.
"""

import argparse
import pathlib
import re
import tempfile

from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WINDOWS = {"desktop": (1280, 900), "phone": (390, 844)}


def numbers(page: Page, table: str, column: int) -> list[float]:
    """What a column shows, from above, as far as it is a number."""
    texts = page.eval_on_selector_all(
        f"{table} tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{column}]?.textContent ?? '')"
    )
    found = [re.match(r"\s*([-−]?\d+(?:\.\d+)?)", text) for text in texts]
    return [float(match[1].replace("−", "-")) for match in found if match]


def sorts(page: Page) -> str:
    table = "main .table table"
    heads = page.query_selector_all(f"{table} >> nth=0 >> thead th")
    column = next(i for i, head in enumerate(heads) if "Dice" in head.inner_text())
    for sign in (1, -1):
        heads[column].query_selector("button").click()
        values = numbers(page, "main .table:first-of-type table", column)
        assert len(values) > 1 and values == sorted(values, reverse=sign < 0), f"column {column} is not sorted: {values}"
    return f"{len(values)} rows sorted"


def filters(page: Page) -> str:
    page.wait_for_selector("main table.points tbody tr")
    box = page.query_selector('input[aria-label="filter points"]')
    rows = lambda: len(page.query_selector_all("main table.points tbody tr"))
    before = rows()
    name = page.inner_text("main table.points tbody tr:last-child td:first-child").strip()
    box.fill(name)
    assert rows() == 1, f"{rows()} points have the id {name}"
    box.fill("there is no such point")
    assert rows() == 0, "a filter that nothing passes leaves points"
    box.fill("")
    assert rows() == before, "an empty filter does not bring all points back"
    return f"{before} points filtered"


def filters_rows(page: Page) -> str:
    """Tables of more than seven rows have a filter of their own."""
    box = page.query_selector('input[aria-label="filter rows"]')
    if box is None:
        return "no table is long enough for a filter"
    shown = lambda: page.eval_on_selector_all(
        "main .table:first-of-type tbody tr:not([hidden])", "rows => rows.map(row => row.textContent.toLowerCase())"
    )
    before = len(shown())
    word = re.search(r"[a-z]{3,}", shown()[-1])[0]
    box.fill(word)
    assert 0 < len(shown()) < before and all(word in row for row in shown()), f"`{word}` leaves {len(shown())} of {before} rows"
    box.fill("")
    assert len(shown()) == before, "an empty filter does not bring all rows back"
    return f"{before} rows filtered"


def evidence(page: Page) -> str:
    cell = page.query_selector("main td.evidence")
    shown = re.match(r"[\d.]+", cell.inner_text())[0]
    cell.click()
    panel = page.wait_for_selector("dialog.panel[open]")
    assert shown in panel.query_selector("h3").inner_text(), "the panel is of another cell"
    points = panel.query_selector_all("tbody tr")
    assert points, "the cell stands on no point"
    panel.query_selector("tbody tr button").click()
    assert panel.query_selector("h3").inner_text().startswith("Point "), "the point does not open"
    stages = len(panel.query_selector_all("details.stage"))
    box = panel.bounding_box()
    width = page.viewport_size["width"]
    assert box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5, f"the panel is wider than the window: {box}"
    return f"{len(points)} points, {stages} stages behind a cell"


def check(browser: str, path: pathlib.Path, shots: pathlib.Path | None) -> None:
    with sync_playwright() as playwright:
        for window, (width, height) in WINDOWS.items():
            for scheme in ("light", "dark"):
                where = f"{path} ({window}, {scheme})"
                # Its own profile: nothing of another run, and nothing left.
                with tempfile.TemporaryDirectory() as profile:
                    context = playwright.chromium.launch_persistent_context(
                        profile,
                        executable_path=browser,
                        args=FLAGS,
                        viewport={"width": width, "height": height},
                        color_scheme=scheme,
                    )
                    page = context.new_page()
                    trouble, asked = [], []
                    page.on("pageerror", lambda error: trouble.append(str(error)))
                    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
                    page.on("request", lambda request: asked.append(request.url))
                    page.goto(path.resolve().as_uri(), wait_until="load")
                    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
                    if shots:
                        page.screenshot(path=shots / f"{path.parent.name}-{window}-{scheme}.png", full_page=True)
                    done = [sorts(page), filters_rows(page), filters(page)]
                    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    assert over <= 0, f"{where}: the page is {over} px wider than its window"
                    done.append(evidence(page))
                    if shots:
                        page.screenshot(path=shots / f"{path.parent.name}-{window}-{scheme}-evidence.png")
                    context.close()
                outside = [url for url in asked if not url.startswith(("file:", "data:"))]
                assert not outside, f"{where} asks for {outside}"
                assert not trouble, f"{where}: {trouble}"
                print(f"{where}: loads in {took:.0f} ms; {', '.join(done)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    args = parser.parse_args()
    pages = args.pages or sorted(pathlib.Path("reports").glob("*/index.html"))
    assert pages, "there are no reports: run a sweep first"
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    for path in pages:
        check(args.browser, path, args.shots)


if __name__ == "__main__":
    main()
