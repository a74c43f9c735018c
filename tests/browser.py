"""A headless Chromium that measures pages; tests that need it skip where there is none."""

import html
import json
import os
import re
import shutil
import subprocess
from itertools import product

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# A window cannot be narrower than 500 pixels, a frame can.
MEASURE = """
<script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    const boxes = [...page.body.querySelectorAll("*")].map((e) => e.getBoundingClientRect());
    const paint = (e, what) => frame.contentWindow.getComputedStyle(e)[what];
    return {
      width: frame.clientWidth,
      scroll: root.scrollWidth,
      right: Math.max(...boxes.map((box) => box.right)),
      ground: paint(page.body, "backgroundColor"),
      ink: paint(page.body, "color"),
      figures: [...page.querySelectorAll("svg")].map((e) => paint(e, "color")),
      spilled: [...page.querySelectorAll(".facts strong")]
        .filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent),
      pictures: [...page.images].map((e) => e.naturalWidth),
      text: page.body.innerText,
    };
  });
  document.body.textContent = JSON.stringify(found);
});
</script>
"""


def chromium():
    """Path of a browser, or skip the test."""
    path = os.environ.get("CHROME_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(NAMES)}, or CHROME_PATH")
    return path


WIDTHS = (390, 1280)


def measured(pages, folder, widths=WIDTHS, dark=False):
    """Load each page in a frame of each width; say what the browser made of it, page by page."""
    frames = ""
    for page, width in product(pages, widths):
        escaped = html.escape(page.read_text(encoding="utf-8"))
        style = f"border:0;width:{width}px;height:900px"
        frames += f'<iframe style="{style}" srcdoc="{escaped}"></iframe>'
    host = folder / "host.html"
    host.write_text(f"<!doctype html><body>{frames}{MEASURE}</body>", encoding="utf-8")
    command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--no-first-run"]
    command += ["--force-dark-mode"] if dark else []
    command += ["--dump-dom", "--virtual-time-budget=5000", host.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    return json.loads(html.unescape(body[1]))
