#!/usr/bin/env python3
"""Looks at a page in headless Chromium as a person would: on a phone and on a desktop, by day and in the dark.

Nothing may overflow sideways, no letter of a picture may be too small to read or cut off, nothing may be said on the console,
and nothing may be asked of the network. Needs playwright (pip) and a Chromium on the PATH; says so and succeeds without.

usage: check.py PAGE [SCREENSHOT_FOLDER]
"""

import os
import pathlib
import shutil
import sys

WIDTHS = {"phone": (390, 844), "desktop": (1280, 800)}
# Elements that reach out of the page or of their picture, and the smallest letters.
LOOK = """() => {
    const width = document.documentElement.clientWidth, problems = [];
    if (document.documentElement.scrollWidth > width) problems.push(`the page is ${document.documentElement.scrollWidth} wide`);
    const scrolls = e => { for (; e; e = e.parentElement) if (getComputedStyle(e).overflowX === 'auto') return true; };
    for (const e of document.querySelectorAll('main *')) {
        const box = e.getBoundingClientRect();
        if (box.width && (box.right > width + 1 || box.left < -1) && !scrolls(e))
            problems.push(`${e.tagName} ${(e.textContent || '').trim().slice(0, 40)} reaches from ${box.left} to ${box.right}`);
    }
    for (const e of document.querySelectorAll('svg text')) {
        const box = e.getBoundingClientRect(), picture = e.closest('svg').getBoundingClientRect();
        if (box.left < picture.left - 1 || box.right > picture.right + 1 || box.top < picture.top - 1 || box.bottom > picture.bottom + 1)
            problems.push(`"${e.textContent.trim()}" is cut off in ${e.closest('svg').querySelector('title').textContent}`);
        const size = parseFloat(getComputedStyle(e).fontSize) * picture.width / e.closest('svg').viewBox.baseVal.width;
        if (size < 8) problems.push(`"${e.textContent.trim()}" is ${size} pixels high`);
    }
    return problems;
}"""


def main():
    page_path = pathlib.Path(sys.argv[1]).resolve()
    shots = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("skipped: no playwright or no Chromium")
        return 0
    problems = []
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        for scheme in ("light", "dark"):
            for name, (width, height) in WIDTHS.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                where = f"{name}, {scheme}: "
                page.on("console", lambda m: problems.append(where + "console: " + m.text))
                page.on("pageerror", lambda e: problems.append(where + "error: " + str(e)))
                page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(where + "asks for " + r.url))
                page.goto(page_path.as_uri())
                page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                problems += [where + problem for problem in page.evaluate(LOOK)]
                if shots:
                    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
                    shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=shots / f"{name}-{scheme}.png")
                    page.screenshot(path=shots / f"{name}-{scheme}-full.png", full_page=True)
                context.close()
        browser.close()
    print("\n".join(problems) or f"{page_path.name}: looks well at {', '.join(map(str, (w for w, _ in WIDTHS.values())))} pixels")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
