"""The HTML report in a real browser, as wide as a desk and as a phone: it fits, and asks for nothing."""

import html
import json
import os
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from report_world import TUNED, finished, world

from ablate.study.design.freeze import NAME as PLAN
from ablate.study.report.evidence import claim_rows
from ablate.study.report.experiments import read_evidence
from ablate.study.report.index import index_page
from ablate.study.report.render import report

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--disable-extensions", "--disable-default-apps",
]  # fmt: skip
WIDTHS = [1280, 390]
NASTY = ["<script>alert(1)</script>", "L" * 100, "<img src=x onerror=alert(1)>"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)")

# Measures the page from outside, in a frame of the wanted width: headless windows have a least width.
PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title>
<iframe id="frame" src="{page}" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(e => e.open = true);
  const inside = e => e.closest(".scroll, svg, pre");  // what scrolls or clips by itself
  const wide = [...page.body.querySelectorAll("*")].filter(
    e => !inside(e) && e.getBoundingClientRect().right > {width} + 0.5);
  const small = [...page.querySelectorAll("figure svg text")].filter(
    e => e.getBoundingClientRect().height < 8);
  document.title = JSON.stringify({{
    scroll: root.scrollWidth, client: root.clientWidth, wide: wide.length, small: small.length,
    rows: page.querySelectorAll(".board tbody tr:not(.aside)").length,
    bars: page.querySelectorAll(".board svg.bar").length,
    figures: page.querySelectorAll(".figures svg").length,
    curves: page.querySelectorAll(".curves svg").length,
    question: page.querySelector("h1").textContent, scripts: page.scripts.length,
    cut: [...page.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).length,
  }});
}};
</script>"""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder on this machine, and every path that was asked for: a page from disk may not be read by
    the probe beside it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            file = folder / self.path.lstrip("/")
            found = file.is_file()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(file.read_bytes() if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()


def chromium(profile: Path, *words: str) -> str:
    """What it prints. It must end by itself within a minute; nothing of its surroundings is handed on."""
    assert CHROMIUM is not None
    profile.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(profile), "LANG": "C.UTF-8"}
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile / 'data'}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("experiments") / "browser"
    arms: dict[str, list[str]] = {"rope": [], "alibi": ["model/position=alibi"]}
    arms |= {name: [f"model.position.base={1000 + n}"] for n, name in enumerate(NASTY)}
    world(place, finished, arms=arms, seeds=4, question="Is <i>this</i> the best?", **TUNED)
    report(place)
    return place


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_window(folder: Path, tmp_path: Path, width: int) -> None:
    seen, asked = probed(folder, "report.html", width, tmp_path)
    assert seen["client"] == width
    assert seen["scroll"] <= width and seen["wide"] == 0
    assert seen["cut"] == 0 or width > 390  # a phone shows whole tables
    assert seen["rows"] == len(NASTY) + 3 and seen["bars"] == len(NASTY) + 2 and seen["figures"] == 5
    assert seen["curves"] == 4 * (len(NASTY) + 3)
    assert seen["question"] == "Is <i>this</i> the best?" and seen["scripts"] == 0
    assert seen["small"] == 0  # the letters of a figure can be read
    assert set(asked) - {"/favicon.ico"} == {"/probe.html", "/report.html"}  # and nothing else


@pytest.mark.parametrize("width", WIDTHS)
def test_the_index_of_studies_fits_its_window(folder: Path, tmp_path: Path, width: int) -> None:
    (folder.parent / "claims.yaml").write_text("C1: {says: x, published: y}")
    (folder / PLAN).touch()
    evidence = read_evidence(folder.parent)
    (tmp_path / "index.html").write_text(index_page(evidence, claim_rows(evidence)))
    seen, asked = probed(tmp_path, "index.html", width, tmp_path)
    assert seen["client"] == width
    assert seen["scroll"] <= width and seen["wide"] == 0 and seen["scripts"] == 0
    assert seen["cut"] == 0 or width > 390
    assert set(asked) - {"/favicon.ico"} == {"/probe.html", "/index.html"}


def probed(folder: Path, page: str, width: int, place: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe measures of a page at this width, and every path that was asked for."""
    (folder / "probe.html").write_text(PROBE.format(width=width, page=page))
    with serving(folder) as (address, asked):
        dom = chromium(place / "p", "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom",
                       f"{address}/probe.html")  # fmt: skip
    found = re.search(r"<title>(\{.*?\})</title>", dom)
    assert found is not None, dom[:500]
    return json.loads(html.unescape(found[1])), asked


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_painted_from_disk(folder: Path, tmp_path: Path, width: int, scheme: str) -> None:
    picture = tmp_path / "report.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    chromium(tmp_path / "p", f"--window-size={width},1600", *dark, f"--screenshot={picture}",
             (folder / "report.html").as_uri())  # fmt: skip
    pixels = read_png(picture)
    assert (len(pixels[0]) // 3, len(pixels)) == (width, 1600)
    ground = pixels[-1][:3]
    assert (sum(ground) / 3 < 60) == (scheme == "dark")
    colours = {bytes(row[n : n + 3]) for row in pixels[::4] for n in range(0, len(row), 12)}
    assert len(colours) > 50  # text, intervals and curves, not an empty page


def read_png(file: Path) -> list[bytes]:
    """The rows of an 8-bit RGB or RGBA picture, as RGB."""
    import matplotlib.image
    import numpy as np

    assert struct.unpack(">8s", file.read_bytes()[:8])[0] == b"\x89PNG\r\n\x1a\n"
    pixels = (matplotlib.image.imread(file)[..., :3] * 255).round().astype(np.uint8)
    return [row.tobytes() for row in pixels]
